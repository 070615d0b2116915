"""Synthetic H&E slides with reports that are true of them: a world in which every sentence can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from histgen_lib.synth.spec import SlideSpec, sample

if TYPE_CHECKING:
    from histgen_lib.synth.painting import RenderedSlide

__all__ = ["SlideSpec", "generate", "render", "sample"]


def generate(out: Path, count: int, seed: int = 0, **options: Any) -> Path:
    """Write `count` slides of `seed` under `out`; see `histgen_lib.synth.folder.generate`."""
    from histgen_lib.synth.folder import generate as run

    return run(out, count, seed, **options)


def render(spec: SlideSpec) -> RenderedSlide:
    """Paint one slide in memory; see `histgen_lib.synth.painting.render`."""
    from histgen_lib.synth.painting import render as paint

    return paint(spec)

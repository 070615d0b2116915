"""Synthetic H&E slides with reports that are true of them: a world in which every sentence can be checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.synth.folder import generate
    from histgen_lib.synth.painting import render
    from histgen_lib.synth.spec import SlideSpec, sample

__all__ = ["SlideSpec", "generate", "render", "sample"]

__getattr__ = lazily(__name__, {"folder": "generate", "painting": "render", "spec": "SlideSpec sample"})

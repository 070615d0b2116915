"""The demo's slides: drawn ones with their truth, given ones, and how they get into the watched folder."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.cli.output import err
from histgen_lib.cli.sources import expand


@dataclass(frozen=True)
class Dropped:
    """A slide for the demo; `truth` of one that was drawn."""

    path: Path
    slide_id: str
    truth: dict[str, Any] | None = None


def draw(world: Path, count: int, seed: int) -> list[Dropped]:
    """Draw slides into `world`; those that are there already are kept."""
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.synth import generate

    err().print(f"Drawing {count} slides that the model has never seen …", style="dim")
    with progress_bar("Drawing", "slides") as bar:
        annotation = generate(
            world, count, seed, split="test", progress=lambda done, total: bar("slides", done, total)
        )
    cases = json.loads(annotation.read_bytes())["test"][:count]
    truths = [json.loads((world / "truth" / f"{case['id']}.json").read_bytes()) for case in cases]
    return [
        Dropped(world / case["image_path"][0], case["id"], truth)
        for case, truth in zip(cases, truths, strict=True)
    ]


def given(slides: Sequence[str]) -> list[Dropped]:
    """Find the slides behind paths and globs; of several that are one to the gateway, the first."""
    from histgen_lib.names import slide_id_of
    from histgen_lib.slides.formats import is_slide_name

    found = [path for path in expand(slides) if path.is_dir() or is_slide_name(path.name)]
    named: dict[str, Dropped] = {}
    for path in found:
        slide_id = slide_id_of(path)
        twin = named.get(slide_id) or next(
            (one for one in named.values() if _same_bytes(one.path, path)), None
        )
        if twin:
            err().print(f"{path} is left out: {twin.path} is called so, or is the same.", soft_wrap=True)
        else:
            named[slide_id] = Dropped(path, slide_id)
    return list(named.values())


def _same_bytes(one: Path, other: Path) -> bool:
    """Whether two slides are one to the gateway, whatever they are called."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def drop(slide: Path, inbox: Path) -> None:
    """Copy a slide with every file that belongs to it; its own file last, as scanners do."""
    from histgen_lib.slides.formats import sidecars_of
    from histgen_lib.slides.source import stored_in

    parts = [*(part for part in stored_in(slide) if part != slide), *sidecars_of(slide), slide]
    for part in parts:
        if part.is_file():
            target = inbox / part.relative_to(slide.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            arriving = target.with_name(f"{target.name}.part")
            shutil.copyfile(part, arriving)
            arriving.replace(target)

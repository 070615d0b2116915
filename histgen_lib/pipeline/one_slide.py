"""One slide, all the way: read, encode, draft, render, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from histgen_lib.bags import Bag, read_bag
from histgen_lib.catalogue.scan_record import record_scan
from histgen_lib.errors import InvalidInputError
from histgen_lib.pipeline.draft.drafter import Drafted, Drafter
from histgen_lib.pipeline.draft.kin import Kin
from histgen_lib.pipeline.draft.pairs import read_pairs
from histgen_lib.pipeline.draft.similar import NearestCases, no_answer
from histgen_lib.pipeline.job import Progress, Stages, silent
from histgen_lib.pipeline.outputs import OutputPlaces, check_owner, finished_draft, write_outputs
from histgen_lib.pipeline.provenance import Part, slide_origin
from histgen_lib.pipeline.scan.scanner import Scanner
from histgen_lib.reports.pictures import (
    Pictures,
    evidence_places,
    make_thumbnail,
    pair_numbers,
    read_evidence,
)
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers import render
from histgen_lib.slides import Slide, assess_quality, open_slide, plan_grid

Status = Literal["written", "unchanged"]


@dataclass(frozen=True)
class Result:
    """The draft of one slide. `folder` holds draft.json, draft.txt, draft.html and bag.parquet."""

    slide_id: str
    folder: Path
    draft: DraftReport
    status: Status


def report_slide(
    path: Path,
    out_dir: Path | OutputPlaces,
    drafter: Drafter,
    *,
    mpp: float | None = None,
    bag: Path | None = None,
    overwrite: bool = False,
    nearest: NearestCases | None = None,
    progress: Progress = silent,
) -> Result:
    """Draft the report of one slide into `out_dir`/<slide id>/.

    Pass the same `OutputPlaces` for all slides of a run, so that no two are written into one folder. `mpp`
    (µm per level-0 px) overrides the file's own. `bag`: features of this slide computed earlier, used instead
    of encoding. A finished draft of the same inputs is left as it is; `overwrite` makes it again, and also
    replaces the draft of another slide of the same name. `nearest`: where to look for similar cases, if the
    model can; a finished draft without an answer from there is made again. On an error nothing is left in
    `out_dir`.

    Raises what `open_slide`, `plan_grid`, `read_bag` and the server raise, and InvalidInputError:
    "slide-changed", "output-other-slide", "bag-other-slide", "bag-other-encoder"; and FatalError:
    "output-unwritable".
    """
    stages, state = Stages(progress), _state(path)
    with ExitStack() as opened:
        with stages("open"):
            slide = opened.enter_context(open_slide(path, mpp=mpp))
            folder = _places(out_dir).claim(slide.slide_id, path)
            supplied = None if bag is None else _matching_bag(bag, slide)
            done = None
            if not overwrite:
                check_owner(folder, slide.content_id)
                origin = slide_origin(slide, supplied.digest if supplied else None)
                done = _finished(folder, drafter, origin, nearest)
        if done is not None:
            return Result(slide.slide_id, folder, done, "unchanged")
        part = _part(slide, supplied, drafter, stages)
        with stages("generate"):
            drafted = _with_similar(drafter.draft(part), drafter, Kin.of([slide]), nearest)
        return _write(folder, drafted, part.bag, slide, stages, unchanged=lambda: _check_state(path, state))


def report_bag(
    path: Path,
    out_dir: Path | OutputPlaces,
    drafter: Drafter,
    *,
    overwrite: bool = False,
    nearest: NearestCases | None = None,
    progress: Progress = silent,
) -> Result:
    """Draft a report from a bag alone; draft.html then shows where the tiles lie, but no pixels.

    As `report_slide`; a finished draft of another bag of the same name is not replaced without `overwrite`.
    """
    stages = Stages(progress)
    with stages("open"):
        bag = read_bag(path)
        folder = _places(out_dir).claim(bag.slide_id, path)
        done = None
        if not overwrite:
            check_owner(folder, None, bag.digest)
            done = _finished(folder, drafter, Part(bag).origin, nearest)
    if done is not None:
        return Result(bag.slide_id, folder, done, "unchanged")
    with stages("generate"):
        kin = Kin(frozenset({bag.slide_id}))
        drafted = _with_similar(drafter.draft(bag), drafter, kin, nearest)
    return _write(folder, drafted, bag, None, stages)


def _finished(
    folder: Path, drafter: Drafter, origin: Mapping[str, Any], nearest: NearestCases | None
) -> DraftReport | None:
    """Return a draft that is there already, with the similar cases that are asked for."""
    done = finished_draft(folder, drafter.recipe.inputs_digest(origin))
    asked = nearest is not None and bool(drafter.model.folder.retrieval)
    answered = done is not None and done.similar is not None and done.similar.answer == "answered"
    return done if answered or not asked else None


def _with_similar(drafted: Drafted, drafter: Drafter, kin: Kin, nearest: NearestCases | None) -> Drafted:
    """Add the nearest cases, or as the stream does that none were looked for."""
    if not drafted.seen:
        return drafted
    model = drafter.model.folder.retrieval_digest
    similar = nearest.nearest(drafted.seen, model, kin) if nearest else no_answer("off", model)
    return replace(drafted, draft=drafted.draft.model_copy(update={"similar": similar}))


def _places(out_dir: Path | OutputPlaces) -> OutputPlaces:
    return out_dir if isinstance(out_dir, OutputPlaces) else OutputPlaces(out_dir)


def _part(slide: Slide, supplied: Bag | None, drafter: Drafter, stages: Stages) -> Part:
    """Encode the slide, unless a bag was supplied."""
    tiling = drafter.model.tiling
    if supplied is not None:
        quality = assess_quality(slide, plan_grid(slide, tiling))
        record = record_scan(slide, tiling=tiling, quality=quality, tiles=len(supplied))
        return Part(supplied, record, supplied=supplied.digest)
    scan = Scanner(drafter.model, drafter.server).scan(slide, stages)
    return Part(scan.bag, record_scan(slide, tiling=tiling, quality=scan.quality, tiles=len(scan.bag)))


def _matching_bag(path: Path, slide: Slide) -> Bag:
    bag = read_bag(path)
    if not bag.has_places or tuple(bag.slide_size) != tuple(slide.size) or bag.slide_id != slide.slide_id:
        raise InvalidInputError(
            "bag-other-slide",
            f"The bag {path.name} was not made from {slide.path.name}.",
            hint="Leave out --bag to encode the slide, or give the bag.parquet of this very slide.",
        )
    return bag


def _write(
    folder: Path,
    drafted: Drafted,
    bag: Bag,
    slide: Slide | None,
    stages: Stages,
    *,
    unchanged: Callable[[], None] = lambda: None,
) -> Result:
    with stages("render"):
        files = render(drafted.draft, [_pictures(drafted, bag, slide)], slide_files=False)
    unchanged()
    changed = write_outputs(folder, files, bag)
    return Result(bag.slide_id, folder, drafted.draft, "written" if changed else "unchanged")


def _pictures(drafted: Drafted, bag: Bag, slide: Slide | None) -> Pictures:
    if slide is None:
        return Pictures(None, bag.xy, bag.span_px, drafted.weights)
    draft = drafted.draft
    tiles = read_evidence(slide, evidence_places(draft), bag.span_px)
    shown = Pictures(make_thumbnail(slide), bag.xy, bag.span_px, drafted.weights, tiles)
    return replace(shown, pairs=read_pairs(slide, shown, draft, pair_numbers(draft), None))


def _state(path: Path) -> tuple[int, int] | None:
    """Return size and modification time of the slide's file; None if it cannot be looked up."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _check_state(path: Path, before: tuple[int, int] | None) -> None:
    """Refuse to draft a file that was still being copied, or vanished: its pixels are a mixture."""
    if _state(path) != before:
        raise InvalidInputError(
            "slide-changed",
            f"{path.name} changed or vanished while it was being read.",
            hint="Wait until the scanner or the copy has finished, then run the command again.",
        )

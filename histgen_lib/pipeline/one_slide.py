"""One slide, all the way: read, encode, draft, render, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histgen_lib.bags import Bag, read_bag
from histgen_lib.catalogue.scan_record import record_scan
from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.draft.draft import Drafted, bag_to_draft
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.outputs import OutputPlaces, check_owner, finished_draft, write_outputs
from histgen_lib.pipeline.pictures import evidence_places, make_thumbnail, pictures_of, read_evidence
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.provenance import Part, inputs_digest, slide_origin
from histgen_lib.pipeline.scan.scan import scan_to_bag
from histgen_lib.reports.pictures import Pictures
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.html import to_html
from histgen_lib.slides import Slide, assess_quality, open_slide, plan_grid

Status = Literal["written", "unchanged"]


@dataclass(frozen=True)
class Result:
    """What became of one slide. `folder` holds draft.json, draft.txt, draft.html and bag.parquet."""

    slide_id: str
    folder: Path
    draft: DraftReport
    status: Status


def report_slide(
    path: Path,
    out_dir: Path | OutputPlaces,
    *,
    model: ReportModel,
    server: InferenceServer,
    mpp: float | None = None,
    bag: Path | None = None,
    beam_size: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Result:
    """Draft the report of one slide into `out_dir`/<slide id>/.

    `OutputPlaces`, the same for all slides of a run, see to it that no two write into one folder.
    `mpp` (µm per level-0 px) overrides what the file says. `bag`: features of this slide made earlier,
    used instead of encoding. A finished draft of the same inputs is left as it is; `overwrite` makes it
    anew, and lets it replace the draft of another slide of the same name. On an error nothing is left in
    `out_dir`.

    Raises what `open_slide`, `plan_grid`, `read_bag` and the server raise, and InvalidInputError:
    "slide-changed", "output-other-slide", "bag-other-slide", "bag-other-encoder"; and FatalError:
    "output-unwritable".
    """
    progress("open", 0, 1)
    state = _state(path)
    with open_slide(path, mpp=mpp) as slide:
        folder = _places(out_dir).claim(slide.slide_id, path)
        given = None if bag is None else _matching_bag(bag, slide)
        origin = slide_origin(slide, given.digest if given else None)
        if not overwrite:
            check_owner(folder, slide.content_id)
            digest = inputs_digest(model, beam_size, origin)
            if (done := finished_draft(folder, digest)) is not None:
                return Result(slide.slide_id, folder, done, "unchanged")
        progress("open", 1, 1)
        part = _scan(slide, given, model, server, progress)
        drafted = bag_to_draft(part, model=model, server=server, beam_size=beam_size, progress=progress)
        return _write(
            folder, drafted, part.bag, slide, progress=progress, unchanged=lambda: _check_state(path, state)
        )


def report_bag(
    path: Path,
    out_dir: Path | OutputPlaces,
    *,
    model: ReportModel,
    server: InferenceServer,
    beam_size: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Result:
    """Draft a report from a bag alone; draft.html then shows where the tiles lie, but no pixels.

    As `report_slide`; a finished draft of another bag of the same name is not replaced without `overwrite`.
    """
    progress("open", 0, 1)
    bag = read_bag(path)
    folder = _places(out_dir).claim(bag.slide_id, path)
    if not overwrite:
        check_owner(folder, None, bag.digest)
        digest = inputs_digest(model, beam_size, {"bag": bag.digest})
        if (done := finished_draft(folder, digest)) is not None:
            return Result(bag.slide_id, folder, done, "unchanged")
    progress("open", 1, 1)
    drafted = bag_to_draft(bag, model=model, server=server, beam_size=beam_size, progress=progress)
    return _write(folder, drafted, bag, None, progress=progress)


def _places(out_dir: Path | OutputPlaces) -> OutputPlaces:
    return out_dir if isinstance(out_dir, OutputPlaces) else OutputPlaces(out_dir)


def _scan(
    slide: Slide, bag: Bag | None, model: ReportModel, server: InferenceServer, progress: Progress
) -> Part:
    if bag is not None:
        quality = assess_quality(slide, plan_grid(slide, model.tiling))
        record = record_scan(slide, tiling=model.tiling, quality=quality, tiles=len(bag))
        return Part(bag, record, given=bag.digest)
    scan = scan_to_bag(slide, model=model, server=server, progress=progress)
    return Part(scan.bag, record_scan(slide, tiling=model.tiling, quality=scan.quality, tiles=len(scan.bag)))


def _matching_bag(path: Path, slide: Slide) -> Bag:
    bag = read_bag(path)
    if not bag.has_places or tuple(bag.slide_size) != tuple(slide.size) or bag.slide_id != slide.slide_id:
        raise InvalidInputError(
            "bag-other-slide",
            f"The bag {path.name} was not made from {slide.path.name}.",
            hint="Leave --bag out to encode the slide, or give the bag.parquet of this very slide.",
        )
    return bag


def _write(
    folder: Path,
    drafted: Drafted,
    bag: Bag,
    slide: Slide | None,
    *,
    progress: Progress,
    unchanged: Callable[[], None] = lambda: None,
) -> Result:
    progress("render", 0, 1)
    html = to_html(drafted.draft, _pictures(drafted, bag, slide))
    progress("render", 1, 1)
    unchanged()
    changed = write_outputs(folder, drafted.draft, html, bag)
    return Result(bag.slide_id, folder, drafted.draft, "written" if changed else "unchanged")


def _pictures(drafted: Drafted, bag: Bag, slide: Slide | None) -> Pictures:
    if slide is None:
        return pictures_of(bag, drafted.weights)
    tiles = read_evidence(slide, evidence_places(drafted.draft), bag.span_px)
    return pictures_of(bag, drafted.weights, thumbnail=make_thumbnail(slide), tiles=tiles)


def _state(path: Path) -> tuple[int, int] | None:
    """Look up size and time of change of the slide's file; None if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _check_state(path: Path, before: tuple[int, int] | None) -> None:
    """Refuse to draft a file that was still being copied, or went away: its pixels are a mixture."""
    if _state(path) != before:
        raise InvalidInputError(
            "slide-changed",
            f"{path.name} changed or went away while it was read.",
            hint="Wait until the scanner or the copy has finished, then run the command again.",
        )

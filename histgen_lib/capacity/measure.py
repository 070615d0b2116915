"""Measures what a tiler and a reporter take on one core of this machine: real jobs on real slides.

All seconds are processor time of this process, which keeps to one core, and of several rounds the fastest
counts: what else the machine does is no property of the worker. So time in which a worker waits for a disk,
a share or a bucket is not in it. The spread is that of the jobs beside the line through them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from histgen_lib import __version__
from histgen_lib.access.places import Roots
from histgen_lib.access.scratch import Scratch
from histgen_lib.access.slide_files import SlideFiles
from histgen_lib.capacity.rates import Provenance, Rates, ReporterRates, Sizes, TilerRates
from histgen_lib.events import Data, Event, SlideScanned
from histgen_lib.inference import InferenceServer, open_inference
from histgen_lib.models.histgen.serving import NAME as HISTGEN
from histgen_lib.pipeline import Drafter, ReportModel, Scanner, load_model
from histgen_lib.pipeline.draft.job import DraftJob
from histgen_lib.pipeline.job import Stages
from histgen_lib.pipeline.scan.job import ScanJob
from histgen_lib.slides import open_slide, plan_grid
from histgen_lib.slides.source import content_id
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

ROUNDS = 3
_START = """
import sys
from histgen_lib.inference import open_inference
from histgen_lib.pipeline import Drafter, Scanner, load_model
load_model(sys.argv[1])
server = open_inference("onnx", sys.argv[1], threads=1)
server.warm("tile_encoder")
server.warm("histgen")
"""
BAGS = (100, 1_000, 4_000)
"""Sizes of bags from which the seconds for each tile of a report follow."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Slide:
    """One slide's best seconds: of reading alone, of the whole scan job, its encoding, and the draft job."""

    tiles: int
    read_s: float
    scan_s: float
    encode_s: float
    draft_s: float
    slide_bytes: int
    event_bytes: int


def measure(slides: Sequence[Path], model_folder: Path, *, command: str, rounds: int = ROUNDS) -> Rates:
    """Measure with these slides (at least two sizes), in a temporary folder that is removed afterwards.

    Raises what the jobs raise.
    """
    with one_core(), tempfile.TemporaryDirectory(prefix="histgen-measure-") as folder:
        model = load_model(model_folder)
        server = open_inference("onnx", model_folder, threads=1)
        _generate(server, model, np.zeros((1, model.folder.histgen.input_dim), np.float16))
        places = [_Place(model, server, Path(folder) / str(number)) for number in range(rounds)]
        done = [_best(path, places) for path in slides]
        bag_s = [(tiles, _report_s(server, model, tiles)) for tiles in BAGS]
        sizes = _sizes(places[0].store, done, model.tiling.tile_px)
    return Rates(
        measured=_provenance(model, command),
        tiler=_tiler(done),
        reporter=_reporter(done, bag_s),
        sizes=sizes,
        start_s=round(_start_s(model_folder), 2),
    )


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and threads that begin inside, on one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Place:
    """A store of its own, and the two jobs over it."""

    def __init__(self, model: ReportModel, server: InferenceServer, folder: Path) -> None:
        storage = StorageSettings(f"file:{folder / 'objects'}")
        files = SlideFiles(storage, lambda: Scratch(folder / "scratch", 1 << 30), roots=Roots((Path("/"),)))
        self.model, self.store = model, open_store(storage)
        self.scan = ScanJob(Scanner(model, server), self.store, files)
        self.draft = DraftJob(Drafter(model, server), self.store, files)


def _best(path: Path, places: Sequence[_Place]) -> _Slide:
    rounds = [_once(path, place) for place in places]
    return _Slide(
        tiles=rounds[0].tiles,
        read_s=min(one.read_s for one in rounds),
        scan_s=min(one.scan_s for one in rounds),
        encode_s=min(one.encode_s for one in rounds),
        draft_s=min(one.draft_s for one in rounds),
        slide_bytes=rounds[0].slide_bytes,
        event_bytes=rounds[0].event_bytes,
    )


def _once(path: Path, place: _Place) -> _Slide:
    read_s, tiles = _read(path, place.model)
    scanned = SlideScanned(path.stem, path.resolve().as_uri(), content_id(path), path.stat().st_size)
    stages = Stages(clock=time.process_time)
    scan_s, ready = _timed(lambda: place.scan.make_bag(scanned, stages))
    draft_s, drafted = _timed(lambda: place.draft.run(_event(ready), ready))
    encode_s = sum(stages.seconds.get(stage, 0.0) for stage in ("read", "encode", "wait"))
    events = [_event(data) for data in (scanned, ready, drafted.data) if data is not None]
    return _Slide(
        tiles, read_s, scan_s, encode_s, draft_s, path.stat().st_size, sum(map(_event_bytes, events))
    )


def _read(path: Path, model: ReportModel) -> tuple[float, int]:
    """Read all tiles of a slide and do nothing with them."""
    with open_slide(path) as slide:
        grid = plan_grid(slide, model.tiling)
        return _timed(lambda: sum(len(batch) for batch in slide.read_tiles(grid)))


def _event(data: Data) -> Event:
    return Event.first(data, source="/histgen/measure", now=datetime.now(UTC), identity=repr(data))


def _event_bytes(event: Event) -> int:
    return len(event.body()) + sum(len(name) + len(value) for name, value in event.headers().items())


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def _start_s(model_folder: Path) -> float:
    """Return what a new process takes until its models are loaded."""
    before = os.times()
    subprocess.run([sys.executable, "-c", _START, str(model_folder)], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _report_s(server: InferenceServer, model: ReportModel, tiles: int) -> float:
    width = model.folder.histgen.input_dim
    features = np.random.default_rng(0).normal(size=(tiles, width)).astype(np.float16)
    return min(_timed(lambda: _generate(server, model, features))[0] for _ in range(ROUNDS))


def _generate(server: InferenceServer, model: ReportModel, features: NDArray[np.float16]) -> None:
    side = int(np.ceil(np.sqrt(len(features))))
    places = np.stack(np.divmod(np.arange(len(features)), side), axis=1).astype(np.int32)
    server.infer(HISTGEN, {"features": features, "xy": places * model.tiling.tile_px})


def _tiler(done: Sequence[_Slide]) -> TilerRates:
    """Share a job out: encoding and reading go by the tile, all the rest by the slide."""
    tiles = sum(slide.tiles for slide in done)
    both = sum(slide.encode_s for slide in done) / tiles
    read_s = min(both, sum(slide.read_s for slide in done) / tiles)
    slide_s = float(np.mean([slide.scan_s - slide.encode_s for slide in done]))
    expected = [slide_s + both * slide.tiles for slide in done]
    return TilerRates(
        slide_s=round(slide_s, 4),
        read_s=round(read_s, 6),
        encode_s=round(both - read_s, 6),
        spread=_spread([slide.scan_s for slide in done], expected),
    )


def _reporter(done: Sequence[_Slide], bag_s: Sequence[tuple[int, float]]) -> ReporterRates:
    tile_s, model_s = _line([tiles for tiles, _ in bag_s], [seconds for _, seconds in bag_s])
    fixed = [slide.draft_s - tile_s * slide.tiles for slide in done]
    report_s = float(np.mean(fixed))
    expected = [report_s + tile_s * slide.tiles for slide in done]
    return ReporterRates(
        report_s=round(report_s, 4),
        model_s=round(min(model_s, report_s), 4),
        tile_s=round(tile_s, 8),
        spread=_spread([slide.draft_s for slide in done], expected),
    )


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the line through the points, and where it begins; neither below 0."""
    slope, begin = np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)
    return max(0.0, float(slope)), max(0.0, float(begin))


def _spread(found: Sequence[float], expected: Sequence[float]) -> float:
    return round(float(np.std(np.asarray(found) / np.asarray(expected))), 3)


def _sizes(store: ObjectStore, done: Sequence[_Slide], tile_px: int) -> Sizes:
    """Sum up the objects by kind; a bag's size goes by its tiles."""
    objects = [(info.key, info.size_bytes) for info in store.list("")]
    bags = sorted(size for key, size in objects if key.endswith(".parquet"))
    tiles = sorted(slide.tiles for slide in done)
    bag_tile, bag = _line(tiles, bags)
    kinds = {
        "thumbnail": [size for key, size in objects if key.startswith("bags/") and key.endswith(".webp")],
        "report": [size for key, size in objects if key.startswith("reports/")],
    }
    counted = sum(bags) + sum(sum(sizes) for sizes in kinds.values())
    return Sizes(
        bag=round(bag),
        bag_tile=round(bag_tile, 1),
        thumbnail=round(sum(kinds["thumbnail"]) / len(done)),
        report=round(sum(kinds["report"]) / len(done)),
        records=round((sum(size for _, size in objects) - counted) / len(done)),
        events=round(float(np.mean([slide.event_bytes for slide in done]))),
        slide_tile=round(sum(slide.slide_bytes for slide in done) / sum(tiles)),
        tile_px=tile_px,
    )


def _provenance(model: ReportModel, command: str) -> Provenance:
    return Provenance(
        command=command,
        processor=_processor(),
        model=model.provenance.name,
        encoder=model.encoder_name,
        histgen=__version__,
        date=datetime.now(UTC).date().isoformat(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""What the stream costs on top of the work itself (`make bench-stream`).

Latency: events one at a time through a real Kafka, the two workers and a real tritonserver whose models do
nothing, compared with the same two jobs called as functions. Saturation: synthetic slides through the real
models, all queued at once; the share of the tiler's time spent in the slide reader and the model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
import tiny_model
from harness import Place, Stream, scanned
from noop_repository import noop_repository
from processes import Service

from histgen_lib.access.places import Roots
from histgen_lib.access.scratch import Scratch
from histgen_lib.access.slide_files import SlideFiles
from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.cores import cores
from histgen_lib.events import REPORT_DRAFTED, BagReady, Event, SlideScanned
from histgen_lib.export import export_local
from histgen_lib.inference import open_inference
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.pipeline import Drafter, Scanner, load_model
from histgen_lib.pipeline.draft.job import DraftJob
from histgen_lib.pipeline.scan.job import ScanJob
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.triton import TritonProcess
from histgen_lib.storage import StorageSettings, open_store

StartTriton = Callable[[Path], TritonProcess]

EVENTS, WARM_UP = 200, 20
SLIDES, ROUNDS = 8, 4
STAGES = ("open", "grid", "read", "encode", "render", "store")
READERS_AND_MODELS = ("open", "grid", "read", "encode", "render")
"""The tiler's stages in the slide reader (including the thumbnail) and in the model."""


@pytest.fixture(scope="module")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_slide(tmp_path_factory.mktemp("bench") / "tiny.tif", side_px=640)


@pytest.fixture(scope="module")
def synthetic_slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from histgen_lib.synth import generate

    folder = tmp_path_factory.mktemp("slides")
    generate(folder, SLIDES, 4711, workers=2)
    return sorted((folder / "slides").glob("*.tif"))


def place(kafka: KafkaProcess, folder: Path, inference: str) -> Place:
    return Place(BusSettings(kafka.url), StorageSettings(f"file:{folder / 'objects'}"), inference)


def named(event: Event, number: int) -> Event:
    """Return the event of another slide that differs only in its id."""
    assert isinstance(event.data, SlideScanned)
    data = replace(event.data, slide_id=f"{event.data.slide_id}-{number:04d}")
    return Event.first(data, source=event.source, now=event.time, identity=data.slide_id)


def bare_jobs(model_dir: Path, at: Place) -> tuple[ScanJob, DraftJob]:
    model, store = load_model(model_dir), open_store(at.storage)
    server = open_inference(at.inference, model_dir, None)
    files = SlideFiles(
        at.storage,
        lambda: Scratch(Path(at.storage.url.removeprefix("file:")) / "scratch", 1 << 30),
        roots=Roots((Path("/"),)),
    )
    return ScanJob(Scanner(model, server, 3), store, files), DraftJob(Drafter(model, server), store, files)


def run_bare(jobs: tuple[ScanJob, DraftJob], data: SlideScanned) -> None:
    draft_bare(jobs[1], jobs[0].make_bag(data))


def draft_bare(job: DraftJob, bag: BagReady) -> None:
    event = Event.first(bag, source="/histgen/bench", now=datetime.now(UTC), identity=bag.bag_digest)
    job.run(event, bag)


def timed(work: Any) -> float:
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(frozen=True)
class Working:
    """A tiler's output and its busy seconds, by stage."""

    tiles: float
    stages: dict[str, float]
    beside_s: float

    @classmethod
    def of(cls, tiler: Service) -> Self:
        return cls(
            tiles=tiler.metric("histgen_tiles_encoded_total"),
            stages={stage: tiler.metric("histgen_stage_seconds_sum", stage=stage) for stage in STAGES},
            beside_s=tiler.metric("histgen_worker_overhead_seconds_sum"),
        )

    def __sub__(self, other: Self) -> Working:
        stages = {stage: self.stages[stage] - other.stages[stage] for stage in STAGES}
        return Working(self.tiles - other.tiles, stages, self.beside_s - other.beside_s)

    @property
    def readers_and_models_s(self) -> float:
        return sum(self.stages[stage] for stage in READERS_AND_MODELS)

    @property
    def total_s(self) -> float:
        return sum(self.stages.values()) + self.beside_s


def test_event_to_draft_with_models_that_do_nothing(
    kafka: KafkaProcess, tiny_slide: Path, start_triton: StartTriton, tmp_path: Path
) -> None:
    at = place(
        kafka, tmp_path / "stream", start_triton(noop_repository(tmp_path / "repository", SHIPPED_MODEL)).url
    )
    stream = Stream(at, tmp_path / "stream", SHIPPED_MODEL)
    event = scanned(tiny_slide)
    stream.start("tiler", "reporter")
    drafted = open_subscription(at.bus, REPORT_DRAFTED, "bench")
    publisher = open_publisher(at.bus)
    taken: list[float] = []
    try:
        for number in range(WARM_UP + EVENTS):
            began_at = time.perf_counter()
            one = named(event, number)
            publisher.publish(one.type, one.key, one)
            while (got := drafted.next(1.0)) is None:
                pass
            taken.append(time.perf_counter() - began_at)
            drafted.done(got)
    finally:
        publisher.close()
        drafted.close()
        stream.stop()
    taken = taken[WARM_UP:]
    jobs = bare_jobs(SHIPPED_MODEL, replace(at, storage=StorageSettings(f"file:{tmp_path / 'bare'}")))
    bare = [timed(lambda n=n: run_bare(jobs, named(event, n).data)) for n in range(WARM_UP + EVENTS // 4)][
        WARM_UP:
    ]
    middle, alone = statistics.median(taken), statistics.median(bare)
    print(f"\nevent to draft on Kafka: {EVENTS} events one at a time, no-op models")
    print(f"  stream        p50 {1000 * middle:6.1f} ms   p99 {1000 * quantile(taken, 0.99):6.1f} ms")
    print(f"  bare calls    p50 {1000 * alone:6.1f} ms   p99 {1000 * quantile(bare, 0.99):6.1f} ms")
    print(f"  stream / bare ×{middle / alone:.2f}; the stream adds {1000 * (middle - alone):.1f} ms")


def test_share_of_the_models_and_the_reader_at_saturation(
    kafka: KafkaProcess, synthetic_slides: list[Path], start_triton: StartTriton, tmp_path: Path
) -> None:
    at = place(
        kafka, tmp_path / "stream", start_triton(export_local(SHIPPED_MODEL, tmp_path / "repository")).url
    )
    jobs = bare_jobs(SHIPPED_MODEL, replace(at, storage=StorageSettings(f"file:{tmp_path / 'bare'}")))
    first, *events = (named(scanned(path), number) for number in range(ROUNDS) for path in synthetic_slides)
    run_bare(jobs, first.data)  # warms the models for both sides
    began_at = time.perf_counter()
    bags = [jobs[0].make_bag(event.data) for event in events]  # type: ignore[arg-type]
    scanning_s = time.perf_counter() - began_at
    for bag in bags:
        draft_bare(jobs[1], bag)
    bare_s = time.perf_counter() - began_at
    stream = Stream(at, tmp_path / "stream", SHIPPED_MODEL)
    stream.start("tiler", "reporter")
    stream.publish([first])
    stream.settle(1, 600)  # the workers have joined their groups
    tiler = stream.services["tiler"]
    before = Working.of(tiler)
    began_at = time.perf_counter()
    stream.publish(events)
    stream.until(lambda: tiler.metric("histgen_jobs_total", outcome="done") > len(events), 600, "all bags")
    tiling_s = time.perf_counter() - began_at
    stream.until(lambda: stream.ended() > len(events), 600, "all drafts")
    stream_s = time.perf_counter() - began_at
    spent = Working.of(tiler) - before
    stream.stop()
    share = 100 * spent.readers_and_models_s
    print(f"\nat saturation: {len(events)} synthetic slides, {spent.tiles:.0f} tiles, {cores()} cores")
    print(f"  one tiler busy for {spent.total_s:.1f} s, beside the reporter and Triton")
    print(f"  slide reader and model: {share / spent.total_s:.1f} % of that")
    print(f"  and {share / tiling_s:.1f} % of the {tiling_s:.1f} s from the first event to the last bag")
    stage_seconds = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in spent.stages.items())
    print(f"  seconds by stage: {stage_seconds}; worker overhead {spent.beside_s:.2f}")
    print(f"  {spent.tiles / tiling_s:.0f} tiles/s; bare scan jobs {spent.tiles / scanning_s:.0f} tiles/s")
    print(f"  all drafted in {stream_s:.1f} s; bare calls in sequence {bare_s:.1f} s")
    print(f"  stream / bare throughput ×{bare_s / stream_s:.2f}")

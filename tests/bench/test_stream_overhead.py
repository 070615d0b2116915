"""What the stream costs beside the work itself: `make bench-stream`.

Latency: events one at a time through a real Kafka, the two workers and a real tritonserver whose models do
nothing; beside it the same two jobs called as functions, in one run. Saturation: synthetic slides through the
real models, all waiting at once; how much of the tiler's time is reading and the model's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from harness import Place, Stream, scanned
from noop_repository import noop_repository

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.events import REPORT_DRAFTED, BagReady, Event, SlideScanned
from histgen_lib.export import export_local
from histgen_lib.inference import open_inference
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.pipeline import load_model
from histgen_lib.pipeline.draft_job import DraftJob
from histgen_lib.pipeline.scan_job import ScanJob
from histgen_lib.pipeline.scratch import Scratch
from histgen_lib.pipeline.slide_files import SlideFiles
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.triton import TritonProcess
from histgen_lib.storage import StorageSettings, open_store

StartTriton = Callable[[Path], TritonProcess]

EVENTS, WARM_UP, SLIDES = 200, 20, 8
STAGES = ("open", "grid", "read", "encode", "render", "store")
READERS_AND_MODELS = ("open", "grid", "read", "encode", "render")
"""Stages of the tiler that are the slide reader's (its thumbnail included) and the model's own."""


@pytest.fixture(scope="module")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write_slide(tmp_path_factory.mktemp("bench") / "tiny.tif", side_px=640)


@pytest.fixture(scope="module")
def synthetic_slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from histgen_lib.synth import generate  # noqa: PLC0415 - slow to load

    folder = tmp_path_factory.mktemp("slides")
    generate(folder, SLIDES, 4711, workers=2)
    return sorted((folder / "slides").glob("*.tif"))


def place(kafka: KafkaProcess, folder: Path, inference: str) -> Place:
    return Place(BusSettings(kafka.url), StorageSettings(f"file:{folder / 'objects'}"), inference)


def named(event: Event, number: int) -> Event:
    """Make the same slide another one: only its id differs."""
    assert isinstance(event.data, SlideScanned)
    data = replace(event.data, slide_id=f"{event.data.slide_id}-{number:04d}")
    return Event.first(data, source=event.source, now=event.time, identity=data.slide_id)


def bare_jobs(model_dir: Path, at: Place) -> tuple[ScanJob, DraftJob]:
    model, store = load_model(model_dir), open_store(at.storage)
    server = open_inference(at.inference, model_dir, None)
    files = SlideFiles(
        at.storage, lambda: Scratch(Path(at.storage.url.removeprefix("file:")) / "scratch", 1 << 30)
    )
    return ScanJob(model, server, store, files, 3), DraftJob(model, server, store, files)


def run_bare(jobs: tuple[ScanJob, DraftJob], data: SlideScanned) -> None:
    bag: BagReady = jobs[0].run(data).data
    jobs[1].run(bag)


def timed(work: Any) -> float:
    began_at = time.perf_counter()
    work()
    return time.perf_counter() - began_at


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


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
    print(f"\nevent to draft on Kafka, {EVENTS} events one at a time, models that do nothing")
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
    events = [scanned(path) for path in synthetic_slides]
    run_bare(jobs, named(events[0], 0).data)  # the models are warm now, for both sides
    began_at = time.perf_counter()
    bags = [jobs[0].run(event.data).data for event in events]  # type: ignore[arg-type]
    scanning_s = time.perf_counter() - began_at
    for bag in bags:
        jobs[1].run(bag)
    bare_s = time.perf_counter() - began_at
    stream = Stream(at, tmp_path / "stream", SHIPPED_MODEL)
    stream.start("tiler", "reporter")
    began_at = time.perf_counter()
    stream.publish(events)
    tiler = stream.services["tiler"]
    stream.until(lambda: tiler.metric("histgen_jobs_total", outcome="done") >= SLIDES, 600, "all bags")
    tiling_s = time.perf_counter() - began_at
    stream.settle(SLIDES, 600)
    stream_s = time.perf_counter() - began_at
    tiles = tiler.metric("histgen_tiles_encoded_total")
    stages = {stage: tiler.metric("histgen_stage_seconds_sum", stage=stage) for stage in STAGES}
    beside_s = tiler.metric("histgen_worker_overhead_seconds_sum")
    stream.stop()
    working_s = sum(stages.values()) + beside_s
    share = 100 * sum(stages[stage] for stage in READERS_AND_MODELS) / working_s
    print(f"\nat saturation: {SLIDES} synthetic slides, {tiles:.0f} tiles, one tiler, {os.cpu_count()} cores")
    print(f"  tiler at work {working_s:.1f} s; the reader's and the model's own: {share:.1f} %")
    print(f"  from the first event to the last bag {tiling_s:.1f} s, joining the group included")
    told = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
    print(f"  seconds of its stages: {told}; of the worker beside them {beside_s:.2f}")
    print(f"  {tiles / tiling_s:.0f} tiles/s; bare scan jobs {tiles / scanning_s:.0f} tiles/s")
    print(f"  all drafted in {stream_s:.1f} s; bare calls one after the other {bare_s:.1f} s")
    print(f"  stream / bare throughput ×{bare_s / stream_s:.2f}")

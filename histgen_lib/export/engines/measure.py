"""What an engine does on the GPU at hand: the figures by which servers choose batches and instances."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import numpy as np

from histgen_lib.models.engines.record import BatchRate, Measured, Shape
from histgen_lib.models.engines.session import Engine, EngineSession, Lane
from histgen_lib.models.engines.steps import StepLoop

BATCHES = (8, 16, 32, 64, 128, 256)
INSTANCES = (1, 2, 3)
TILES = (1_000, 4_000, 10_000, 100_000)
SLIDES = (1, 8)

_NEAR = 0.97
"""A smaller batch, or fewer instances, is chosen if it reaches this share of the best rate."""

Clock = Callable[[], float]


def measure_tiles(engine: Engine, clock: Clock = time.perf_counter, runs: int = 8) -> Measured:
    """Measure tiles a second by batch, from host memory and back, then by engines side by side."""
    _, _, (most, *shape) = engine.record.profiles[-1]["tiles"]
    tried: list[BatchRate] = []
    with suppress(MemoryError):  # the larger batches are not for this GPU
        for batch in (batch for batch in BATCHES if batch <= most):
            tried.append(_rate(engine, np.zeros((batch, *shape), dtype=np.uint8), 1, clock, runs))
    if not tried:
        return Measured()
    batch = _chosen(tried).batch
    tiles = np.zeros((batch, *shape), dtype=np.uint8)
    with suppress(MemoryError):
        for instances in INSTANCES[1:]:
            tried.append(_rate(engine, tiles, instances, clock, runs))
    best = _chosen([rate for rate in tried if rate.batch == batch])
    return Measured(batch=best.batch, instances=best.instances, rates=tuple(tried))


def measure_encoder(engine: Engine, clock: Clock = time.perf_counter, runs: int = 5) -> Measured:
    """Measure milliseconds of one slide's encoding by tiles, its features being on the device."""
    (_, _, (most, _)), (_, _, (_, per_region)) = (
        engine.record.profiles[-1][name] for name in ("features", "rows")
    )
    lane, times = Lane(engine), {}
    with suppress(MemoryError):  # the larger slides are not for this GPU
        for count in (count for count in TILES if count <= most):
            shapes = dict(_sized(engine, count, per_region))
            times[f"N={count}"] = _milliseconds(lane, shapes, clock, runs)
    lane.close()
    return Measured(milliseconds=times)


def measure_step(engine: Engine, clock: Clock = time.perf_counter, runs: int = 3) -> Measured:
    """Measure milliseconds of one step by slides that are searched together, in a search of full length."""
    _, (_, regions), _ = engine.record.profiles[0]["valid"]
    _, _, (most, _) = engine.record.profiles[-1]["valid"]
    times = {}
    with suppress(MemoryError):
        for slides in (slides for slides in SLIDES if slides <= most):
            loop = StepLoop(engine, slides, regions)
            times[f"S={slides},R={regions}"] = _step_milliseconds(loop, clock, runs)
    return Measured(milliseconds=times)


def _rate(
    engine: Engine, tiles: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], instances: int, clock: Clock,
    runs: int,
) -> BatchRate:  # fmt: skip
    with closing(EngineSession(engine, instances)) as session, ThreadPoolExecutor(instances) as pool:

        def once() -> float:
            start = clock()
            for done in [pool.submit(session.run, {"tiles": tiles}) for _ in range(runs * instances)]:
                done.result()
            return clock() - start

        once()  # contexts, memory and kernels of this size
        seconds = min(once() for _ in range(2))
    rate = len(tiles) * runs * instances / max(seconds, 1e-9)
    return BatchRate(batch=len(tiles), instances=instances, tiles_per_s=round(rate, 1))


def _chosen(tried: list[BatchRate]) -> BatchRate:
    best = max(rate.tiles_per_s for rate in tried)
    return next(rate for rate in tried if rate.tiles_per_s >= _NEAR * best)


def _sized(engine: Engine, tiles: int, per_region: int) -> Iterator[tuple[str, Shape]]:
    for name, facts in engine.inputs.items():
        count = tiles if name == "features" else -(-tiles // per_region)
        yield name, tuple(count if size < 0 else size for size in facts.shape)


def _milliseconds(lane: Lane, shapes: dict[str, Shape], clock: Clock, runs: int) -> float:
    context = lane.prepare(shapes)
    seconds = []
    for _ in range(runs + 1):  # the first is not like the others
        start = clock()
        lane.start(context)
        lane.device.wait(lane.stream)
        seconds.append(clock() - start)
    return round(1e3 * min(seconds), 4)


def _step_milliseconds(loop: StepLoop, clock: Clock, runs: int) -> float:
    seconds = []
    for _ in range(runs):
        loop.begin()
        start = clock()
        for _ in range(loop.max_tokens):
            loop.advance()
        loop.mark().wait()
        seconds.append(clock() - start)
    loop.close()
    return round(1e3 * min(seconds) / loop.max_tokens, 4)

"""Reading and encoding at once: while the server works on some tiles, the next are read.

A few batches are in flight, never more, so memory is bounded whatever the slide's size; features come out in
the tiles' order and do not depend on how many are in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.timing import Stages
from histgen_lib.slides import TileBatch

Features = NDArray[np.float16]


def encode_batches(
    batches: Iterator[TileBatch], server: InferenceServer, *, in_flight: int = 1, stages: Stages | None = None
) -> Generator[Features, None, None]:
    """Yield the features float16[B, D] of each batch, in order; `in_flight` calls of `server` at a time.

    At most `in_flight` + 1 batches are held. The caller's thread waits for pixels ("read") and for the server
    ("encode"): `stages` counts what it waited. When this ends, in whatever way, no call is running any more.
    """
    stages = stages or Stages()
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="histgen-encode")
    pending: deque[Future[Features]] = deque()
    try:
        while (batch := _next(batches, stages)) is not None:
            pending.append(pool.submit(_encode, server, batch))
            if len(pending) > in_flight:
                yield _first(pending, stages)
        while pending:
            yield _first(pending, stages)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next(batches: Iterator[TileBatch], stages: Stages) -> TileBatch | None:
    with stages("read"):
        return next(batches, None)


def _first(pending: deque[Future[Features]], stages: Stages) -> Features:
    with stages("encode"):
        return pending.popleft().result()


def _encode(server: InferenceServer, batch: TileBatch) -> Features:
    return server.infer("tile_encoder", {"tiles": batch.pixels})["features"].astype(np.float16)

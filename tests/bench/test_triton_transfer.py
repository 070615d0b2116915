"""How long a bag takes to a local Triton server and back, with and without shared memory.

Run with `make bench`. The models do nothing. Measured are the way there, through the server into the model's
process until the features are an array, and the round trip. Calls with and without shared memory alternate,
so that other load on the machine affects both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from noop_repository import arrival_s, noop_repository

from histgen_lib.inference import TritonServer
from histgen_lib.inference._connection import Connection
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess

MIB = 1 << 20
CALLS = 300
TURN = 30


def bag_of(size_bytes: int, width: int) -> dict[str, np.ndarray]:
    """Return a bag whose features take `size_bytes`."""
    tiles = size_bytes // (2 * width)
    features = np.random.default_rng(0).normal(size=(tiles, width)).astype(np.float16)
    return {"features": features, "xy": np.zeros((tiles, 2), np.int32)}


def milliseconds(client: TritonServer, bag: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the milliseconds there, and there and back."""
    start = time.monotonic()
    arrived = arrival_s(client.infer("histgen", bag))
    return 1000 * (arrived - start), 1000 * (time.monotonic() - start)


def test_a_bag_travels_to_a_server_on_this_machine(
    start_triton: Callable[[Path], TritonProcess], tmp_path: Path
) -> None:
    triton = start_triton(noop_repository(tmp_path, SHIPPED_MODEL, timed=True))
    width = open_model_folder(SHIPPED_MODEL).histgen.input_dim
    print(f"\na bag to no-op models and back, {CALLS} calls each")
    with TritonServer(triton.url) as shared, TritonServer(triton.url, shared_memory="off") as network:
        for size_bytes in (MIB // 64, MIB, 4 * MIB, 16 * MIB):
            bag = bag_of(size_bytes, width)
            taken: dict[str, list[tuple[float, float]]] = {"shared": [], "network": []}
            for _ in range(CALLS // TURN):
                for name, client in (("shared", shared), ("network", network)):
                    client.infer("histgen", bag)
                    taken[name] += [milliseconds(client, bag) for _ in range(TURN)]
            there, both = np.transpose(taken["shared"])
            slower = np.median(np.transpose(taken["network"])[1]) / np.median(both)
            print(
                f"  {size_bytes / MIB:6.2f} MiB   one way {quantiles(there)}   and back {quantiles(both)}   "
                f"without shared memory ×{slower:.1f}"
            )
    assert Connection(triton.url).executions("histgen") >= CALLS


def quantiles(values: np.ndarray) -> str:
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {p50:5.2f} ms, p99 {p99:6.2f} ms"

"""Work on a device that is launched as one piece: a CUDA graph on a GPU, a plain call elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any

import torch

Work = Callable[[], None]
"""Reads and writes buffers that stay where they are; nothing in it waits for the device."""

_WARM_UP = 2
"""Runs before a capture, in which libraries choose kernels and take their workspace."""

_CAPTURING = Lock()
"""Captures share torch's stream for them, and warm-ups ours: one thread at a time, whatever it captures."""


def captured(work: Work, device: torch.device, pool: Any = None) -> Work:
    """Return what does `work` in one launch. On CUDA the work is run twice first, then recorded.

    Graphs of one `pool` (`torch.cuda.graph_pool_handle`) share the memory between their inputs and outputs:
    they must never run at the same time.
    """
    if device.type != "cuda":
        return work
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    graph = torch.cuda.CUDAGraph()
    with _CAPTURING, torch.cuda.stream(current):  # to which a capture that fails does not return by itself
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                work()
        current.wait_stream(side)
        # Other threads may use the device in the meantime.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    return graph.replay


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all warm-ups: cuBLAS keeps a workspace of tens of MB for each that it ever saw."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def size_class(count: int, least: int = 16) -> int:
    """Round a size up to 2·2ⁿ or 3·2ⁿ, at least `least`: few graphs serve all sizes."""
    size = least
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size

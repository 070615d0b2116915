"""A TensorRT that builds: an ONNX file goes in, and comes out as the "engine" that `fake_gpu` runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Network:
    """What `OnnxParser` fills."""

    def __init__(self, flags: int) -> None:
        self.flags, self.plan, self.num_layers = flags, b"", 0
        self.num_inputs = self.num_outputs = 0

    def fill(self, plan: bytes) -> None:
        session = onnxruntime.InferenceSession(plan)
        self._inputs, self._outputs = map(tensors_of, (session.get_inputs(), session.get_outputs()))
        self.num_inputs, self.num_outputs, self.plan = len(self._inputs), len(self._outputs), plan

    def get_input(self, place: int) -> Any:
        return self._inputs[place]

    def get_output(self, place: int) -> Any:
        return self._outputs[place]


class Parser:
    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.fill(Path(path).read_bytes())
        return True


class Profile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self._shapes[name] = [least, usual, most]

    def get_shape(self, name: str) -> Any:
        return self._shapes[name]


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed."


class Config:
    """Refuses a timing cache that begins with "foreign", as TensorRT does that of another GPU."""

    profiling_verbosity = None

    def __init__(self) -> None:
        self._profiles, self._cache = 0, None

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles += 1
        return self._profiles - 1

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content.startswith(b"damaged") else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"foreign"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self._cache


def tensors_of(found: Any) -> list[Any]:
    return [
        SimpleNamespace(
            name=one.name,
            dtype=SimpleNamespace(name=DTYPES[one.type][0]),
            shape=tuple(size if isinstance(size, int) else -1 for size in one.shape),
        )
        for one in found
    ]


DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "tensor(float)": ("FLOAT", np.dtype(np.float32)),
    "tensor(float16)": ("HALF", np.dtype(np.float16)),
    "tensor(int64)": ("INT64", np.dtype(np.int64)),
    "tensor(bool)": ("BOOL", np.dtype(np.bool_)),
    "tensor(uint8)": ("UINT8", np.dtype(np.uint8)),
}

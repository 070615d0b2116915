"""A GPU and a TensorRT in host memory: addresses are real, streams run at once, networks run on ONNX Runtime.

An "engine" here is the path of an ONNX file. With them everything that loads, feeds, loops and checks engines
is tested, but for the calls of CUDA and TensorRT themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime




class HostMemory:
    """Zeroed host memory with an address."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(max(size, 1), dtype=np.uint8)
        self.address = self.array.ctypes.data


class HostGraph:
    """Calls that were recorded."""

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self._calls = calls

    def launch(self, stream: int) -> None:
        for call in self._calls:
            call()


class HostMark:
    """Everything is done already."""

    def wait(self) -> None:
        return


class HostDevice:
    """A `Device` whose memory is the host's. `recording`: what a capture has collected so far."""

    def __init__(self, capability: str = "8.9") -> None:
        self.name, self.capability = "Host GPU", capability
        self.live: dict[int, HostMemory] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.launched = 0

    def do(self, call: Callable[[], None]) -> None:
        if self.recording is None:
            call()
        else:
            self.recording.append(call)

    def allocate(self, size: int) -> int:
        assert self.recording is None, "memory is not allocated while a graph is recorded"
        memory = HostMemory(size)
        self.live[memory.address] = memory
        return memory.address

    def release(self, address: int) -> None:
        del self.live[address]

    def pin(self, size: int) -> HostMemory:
        return HostMemory(size)

    def stream(self) -> int:
        return 7

    def end(self, stream: int) -> None:
        assert stream == 7

    def wait(self, stream: int) -> None:
        assert self.recording is None, "nothing may wait while a graph is recorded"

    def mark(self, stream: int) -> HostMark:
        return HostMark()

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.do(lambda: ctypes.memmove(target, source, size) and None)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, pitch: int, width: int, rows: int, stream: int
    ) -> None:
        assert width <= min(pitch, target_pitch)
        for row in range(rows):
            self.copy(target + row * target_pitch, source + row * pitch, width, stream)

    def clear(self, target: int, size: int, stream: int) -> None:
        self.do(lambda: ctypes.memset(target, 0, size) and None)

    def capture(self, stream: int, work: Callable[[], None]) -> HostGraph:
        self.recording = []
        work()
        calls, self.recording = self.recording, None
        return HostGraph(calls)


class FakeContext:
    """An execution context: sizes and addresses by name, then a run of ONNX Runtime on what lies there."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._shapes, self._addresses = engine, {}, {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert type(shape) is tuple
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine.inputs if name not in self._shapes]
        if not missing:
            zeros = {name: np.zeros(shape, self._engine.dtypes[name]) for name, shape in self._shapes.items()}
            found = self._engine.compute(zeros)
            self._shapes |= {name: value.shape for name, value in found.items()}
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address != 0, "TensorRT does not run with null addresses"
        self._addresses[name] = address
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses[name]

    def execute_async_v3(self, stream: int) -> bool:
        addresses = dict(self._addresses)
        self._engine.device.do(lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        engine = self._engine
        read = {name: engine.read(addresses[name], name, self._shapes[name]) for name in engine.inputs}
        for name, value in engine.compute(read).items():
            raw = np.ascontiguousarray(value)
            ctypes.memmove(addresses[name], raw.ctypes.data, raw.nbytes)


class FakeEngine:
    """A network of ONNX Runtime under TensorRT's interface; `wrong` spoils its outputs."""

    def __init__(self, path: str, device: HostDevice, wrong: Callable[[str, Any], Any] | None) -> None:
        self._session = onnxruntime.InferenceSession(path)
        self.device, self._wrong = device, wrong
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.dtypes = {one.name: _DTYPES[one.type] for one in self._session.get_inputs()}

    def create_execution_context(self, *_: Any) -> FakeContext:
        return FakeContext(self)

    def compute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = [one.name for one in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, inputs), strict=True))
        return {name: self._wrong(name, value) for name, value in found.items()} if self._wrong else found

    def read(self, address: int, name: str, shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape)) * self.dtypes[name].itemsize
        raw = np.frombuffer(ctypes.string_at(address, count), dtype=self.dtypes[name])
        return raw.reshape(shape)


def fake_tensorrt(
    device: HostDevice, version: str = "10.6.0", wrong: Callable[[str, Any], Any] | None = None
) -> Any:
    """Make a module like `tensorrt`; it loads "engines" that are paths of ONNX files."""

    class Logger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            if not plan.endswith(b".onnx"):
                self._logger.log(Logger.ERROR, "magic tag does not match")
                return None
            return FakeEngine(plan.decode(), device, wrong)

    return SimpleNamespace(__version__=version, ILogger=Logger, Runtime=Runtime)


_DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
}


"""A GPU and a TensorRT in host memory: addresses are real, streams run at once, networks run on ONNX Runtime.

An "engine" here is the ONNX file itself. With them everything that compiles, loads, feeds, loops and checks
engines is tested, but for what CUDA and TensorRT do themselves.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from fake_builder import DTYPES, Config, Network, Parser, Profile, tensors_of

from histgen_lib.models.engines.device import Rows

Wrong = Callable[[str, Any], Any]


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
        self.configs: list[FakeRuntimeConfig] = []

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

    def copy_rows(self, target: Rows, source: Rows, *, width: int, count: int, stream: int) -> None:
        assert width <= min(target.pitch, source.pitch)
        for row in range(count):
            into, out_of = (rows.address + row * rows.pitch for rows in (target, source))
            self.copy(into, out_of, width, stream)

    def clear(self, target: int, size: int, stream: int) -> None:
        self.do(lambda: ctypes.memset(target, 0, size) and None)

    def capture(self, stream: int, work: Callable[[], None]) -> HostGraph:
        self.recording = []
        work()
        calls, self.recording = self.recording, None
        return HostGraph(calls)


class FakeContext:
    """An execution context: sizes and addresses by name, then a run of ONNX Runtime on what lies there."""

    nvtx_verbosity, profile = "detailed", 0

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._shapes, self._addresses, self._scratch = engine, {}, {}, (0, 0)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert type(shape) is tuple
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine.inputs if name not in self._shapes]
        if not missing:
            self._shapes |= self._engine.output_shapes(
                {name: self._shapes[name] for name in self._engine.inputs}
            )
        return missing

    def update_device_memory_size_for_shapes(self) -> int:
        return 64 * sum(map(math.prod, self._shapes.values()))

    def set_device_memory(self, address: int, size: int) -> None:
        assert size <= len(self._engine.device.live[address].array), "less memory than TensorRT was told"
        self._scratch = (address, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address != 0, "TensorRT does not run with null addresses"
        self._addresses[name] = address
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses[name]

    def execute_async_v3(self, stream: int) -> bool:
        assert self.nvtx_verbosity == "none", "the layers' names are for the inspector"
        addresses, (scratch, size) = dict(self._addresses), self._scratch
        assert size >= self.update_device_memory_size_for_shapes()
        assert scratch in self._engine.device.live
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

    def __init__(self, plan: bytes, device: HostDevice, wrong: Wrong | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(plan, options)
        self.device, self._wrong, self._known = device, wrong, {}
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.dtypes = {one.name: DTYPES[one.type][1] for one in self._session.get_inputs()}
        tensors = tensors_of([*self._session.get_inputs(), *self._session.get_outputs()])
        self._tensors = {one.name: one for one in tensors}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, place: int) -> str:
        return list(self._tensors)[place]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype

    def get_tensor_location(self, name: str) -> str:
        return "device"

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, strategy: str | FakeRuntimeConfig) -> FakeContext:
        config = strategy if isinstance(strategy, FakeRuntimeConfig) else None
        assert (config.strategy if config else strategy) == "user managed"
        if config is not None:
            self.device.configs.append(config)
        return FakeContext(self)

    def create_engine_inspector(self) -> Any:
        layers = json.dumps(
            {"Layers": [{"Name": "one", "LayerType": "gemm"}, {"Name": "two", "LayerType": "gemm"}]}
        )
        return SimpleNamespace(get_engine_information=lambda form: layers)

    def compute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = [one.name for one in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, inputs), strict=True))
        return {name: self._wrong(name, value) for name, value in found.items()} if self._wrong else found

    def output_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(shapes.items())
        if key not in self._known:
            found = self.compute({name: np.zeros(shape, self.dtypes[name]) for name, shape in key})
            self._known[key] = {name: value.shape for name, value in found.items()}
        return self._known[key]

    def read(self, address: int, name: str, shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape)) * self.dtypes[name].itemsize
        raw = np.frombuffer(ctypes.string_at(address, count), dtype=self.dtypes[name])
        return raw.reshape(shape)


class FakeRuntimeCache:
    """TensorRT-RTX's cache of what it compiled; it refuses one that begins with "foreign"."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        if content.startswith(b"foreign"):
            return False
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content or b"compiled"


class FakeRuntimeConfig:
    """TensorRT-RTX's settings of a context; the device keeps those that were used."""

    strategy = dynamic_shapes_kernel_specialization_strategy = cuda_graph_strategy = cache = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class _Logger:
    ERROR, INTERNAL_ERROR = "error", "internal error"


def fake_tensorrt(device: HostDevice, version: str = "10.6.0", wrong: Wrong | None = None) -> Any:
    """Make a module like `tensorrt`: 10, or, without what it dropped, 11."""
    networks: list[Network] = []

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Network:
            networks.append(Network(flags))
            return networks[-1]

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes:
            return network.plan

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            try:
                return FakeEngine(plan, device, wrong)
            except Exception:
                self._logger.log(_Logger.ERROR, "magic tag does not match")
                return None

    flags = SimpleNamespace(STRONGLY_TYPED=1) if version.startswith("10") else SimpleNamespace()
    return SimpleNamespace(
        __version__=version,
        networks=networks,
        Builder=Builder,
        BuilderFlag=SimpleNamespace(),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        ILogger=_Logger,
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        NetworkDefinitionCreationFlag=flags,
        OnnxParser=Parser,
        TensorLocation=SimpleNamespace(DEVICE="device"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed", NONE="none"),
        Runtime=Runtime,
    )


def fake_rtx(device: HostDevice, version: str = "1.7.1.116") -> Any:
    """Make a module like `tensorrt_rtx`, as far as it differs in running engines."""
    found = fake_tensorrt(device, version)
    found.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(NONE="none", EAGER="eager")
    found.CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    return found

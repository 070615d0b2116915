"""The calls of the CUDA runtime: their order, their arguments, and what their failures become."""

from __future__ import annotations

import sys
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import HostMemory

from histgen_lib.errors import FatalError
from histgen_lib.models.engines.device import CudaDevice, Rows


class Status(Enum):
    cudaSuccess = 0  # noqa: N815 - as CUDA names it
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815


class Runtime:
    """Stands for `cuda.bindings.runtime`: notes calls, and returns a status and what `gives` has for them."""

    cudaError_t = Status  # noqa: N815
    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Status] = {}
        self.memory: list[HostMemory] = []
        self.gives: dict[str, Any] = {
            "cudaGetDeviceCount": lambda: 1,
            "cudaGetDeviceProperties": lambda *_: SimpleNamespace(name=b"NVIDIA H100", major=9, minor=0),
            "cudaMalloc": lambda size: 4096,
            "cudaMallocHost": self.pinned,
            "cudaStreamCreateWithFlags": lambda flags: 11,
            "cudaStreamEndCapture": lambda stream: "graph",
            "cudaGraphInstantiate": lambda graph, flags: f"ready {graph}",
            "cudaEventCreateWithFlags": lambda flags: "event",
        }

    def pinned(self, size: int) -> int:
        self.memory.append(HostMemory(size))
        return self.memory[-1].address

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            status = self.fails.get(name, Status.cudaSuccess)
            return (status, self.gives[name](*arguments)) if name in self.gives else (status,)

        return call


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", found)
    return found


@pytest.fixture
def device(runtime: Runtime) -> CudaDevice:
    found = CudaDevice()
    runtime.calls.clear()
    return found


def test_it_knows_its_name_and_what_it_can(device: CudaDevice) -> None:
    assert (device.name, device.capability) == ("NVIDIA H100", "9.0")


@pytest.mark.parametrize(("status", "count"), [(Status.cudaErrorNoDevice, 0), (Status.cudaSuccess, 0)])
def test_a_machine_without_a_gpu(runtime: Runtime, status: Status, count: int) -> None:
    runtime.fails["cudaGetDeviceCount"] = status
    runtime.gives["cudaGetDeviceCount"] = lambda: count
    with pytest.raises(FatalError) as caught:
        CudaDevice()
    assert caught.value.code == "engine-gpu-missing"


def test_a_driver_that_is_too_old_for_the_bindings(runtime: Runtime) -> None:
    runtime.fails["cudaGetDeviceCount"] = Status.cudaErrorInsufficientDriver
    with pytest.raises(FatalError) as caught:
        CudaDevice()
    assert "cudaErrorInsufficientDriver" in caught.value.message
    assert "cuda-bindings<13" in caught.value.hint


def test_bindings_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(FatalError) as caught:
        CudaDevice()
    assert caught.value.code == "engine-cuda"
    assert "histgen[tensorrt]" in caught.value.hint


def test_memory_is_zeroed_before_any_stream_may_use_it(device: CudaDevice, runtime: Runtime) -> None:
    assert device.allocate(100) == 4096
    assert runtime.calls == [
        ("cudaMalloc", 100),
        ("cudaMemset", 4096, 0, 100),
        ("cudaStreamSynchronize", 0),
    ]


def test_memory_for_nothing_has_an_address(device: CudaDevice, runtime: Runtime) -> None:
    """TensorRT does not run with null addresses, not even of empty tensors."""
    device.allocate(0)
    assert runtime.calls[0] == ("cudaMalloc", 1)


def test_pinned_memory_is_an_array_at_its_address(device: CudaDevice, runtime: Runtime) -> None:
    pinned = device.pin(8)
    pinned.array[:] = np.arange(8)
    assert runtime.memory[0].array.tolist() == list(range(8))
    address = pinned.address
    del pinned
    assert ("cudaFreeHost", address) in runtime.calls


def test_copies_go_either_way(device: CudaDevice, runtime: Runtime) -> None:
    device.copy(1, 2, 30, 11)
    device.copy(1, 2, 0, 11)
    device.copy_rows(Rows(100, 64), Rows(200, 48), width=40, count=3, stream=11)
    device.clear(100, 64, 11)
    assert runtime.calls == [
        ("cudaMemcpyAsync", 1, 2, 30, 4, 11),
        ("cudaMemcpy2DAsync", 100, 64, 200, 48, 40, 3, 4, 11),
        ("cudaMemsetAsync", 100, 0, 64, 11),
    ]


def test_work_is_recorded_and_started_again(device: CudaDevice, runtime: Runtime) -> None:
    graph = device.capture(11, lambda: device.clear(1, 2, 11))
    graph.launch(11)
    assert runtime.calls == [
        ("cudaStreamBeginCapture", 11, 1),
        ("cudaMemsetAsync", 1, 0, 2, 11),
        ("cudaStreamEndCapture", 11),
        ("cudaGraphInstantiate", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "ready graph", 11),
    ]
    del graph
    assert runtime.calls[-1] == ("cudaGraphExecDestroy", "ready graph")


def test_recording_ends_when_the_work_fails(device: CudaDevice, runtime: Runtime) -> None:
    def work() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        device.capture(11, work)
    assert [call[0] for call in runtime.calls] == ["cudaStreamBeginCapture", "cudaStreamEndCapture"]


def test_a_mark_waits_for_what_came_before_it(device: CudaDevice, runtime: Runtime) -> None:
    mark = device.mark(device.stream())
    mark.wait()
    del mark
    assert runtime.calls == [
        ("cudaStreamCreateWithFlags", 1),
        ("cudaEventCreateWithFlags", 2),
        ("cudaEventRecord", "event", 11),
        ("cudaEventSynchronize", "event"),
        ("cudaEventDestroy", "event"),
    ]


def test_too_little_memory_is_a_memory_error(device: CudaDevice, runtime: Runtime) -> None:
    runtime.fails["cudaMalloc"] = Status.cudaErrorMemoryAllocation
    with pytest.raises(MemoryError):
        device.allocate(1 << 40)


def test_any_other_failure_is_fatal_and_named(device: CudaDevice, runtime: Runtime) -> None:
    runtime.fails["cudaStreamSynchronize"] = Status.cudaErrorIllegalAddress
    with pytest.raises(FatalError) as caught:
        device.wait(11)
    assert caught.value.code == "engine-cuda"
    assert "cudaStreamSynchronize returned cudaErrorIllegalAddress" in caught.value.message

"""The GPU: memory, copies, streams and graphs, by NVIDIA's bindings of the CUDA runtime (`cuda-bindings`).

`Device` is all that running engines needs of it; everything else about engines is tested against a device in
host memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol
from weakref import finalize

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError

Bytes = npt.NDArray[np.uint8]


class Graph(Protocol):
    """Recorded work, that one call starts again."""

    def launch(self, stream: int) -> None:
        """Start it on a stream."""
        ...


class Mark(Protocol):
    """A place in a stream's work."""

    def wait(self) -> None:
        """Wait until the stream's work is done up to here."""
        ...


class Pinned(Protocol):
    """Host memory that the device copies to and from by itself."""

    address: int
    array: Bytes


class Rows(NamedTuple):
    """Rows in memory: the address of the first, and how far apart they begin."""

    address: int
    pitch: int


class Device(Protocol):
    """One GPU. Addresses and streams are integers, as TensorRT takes them; sizes are in bytes.

    Work on one stream is done in order; nothing but `wait` waits for it.
    """

    name: str
    capability: str
    """Compute capability, as "9.0"."""

    def allocate(self, size: int) -> int:
        """Return the address of new memory on the device, zeroed. Raises MemoryError."""
        ...

    def release(self, address: int) -> None:
        """Give memory back; waits for work that may use it."""
        ...

    def pin(self, size: int) -> Pinned:
        """Return new host memory, which lives as long as the object. Raises MemoryError."""
        ...

    def stream(self) -> int:
        """Return a new stream."""
        ...

    def end(self, stream: int) -> None:
        """Give a stream back; its work is still done."""
        ...

    def wait(self, stream: int) -> None:
        """Wait for a stream's work."""
        ...

    def mark(self, stream: int) -> Mark:
        """Return a mark after what was started on the stream so far."""
        ...

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy between addresses of device or pinned memory."""
        ...

    def copy_rows(self, target: Rows, source: Rows, *, width: int, count: int, stream: int) -> None:
        """Copy `count` rows of `width` bytes."""
        ...

    def clear(self, target: int, size: int, stream: int) -> None:
        """Fill with zeros."""
        ...

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """Record what `work` starts on the stream, without running it."""
        ...


class CudaDevice:
    """The first GPU that the process may use. Raises FatalError: "engine-cuda", "engine-gpu-missing"."""

    def __init__(self) -> None:
        self._cuda = cuda = _bindings()
        error, count = cuda.cudaGetDeviceCount()
        if error != cuda.cudaError_t.cudaSuccess or not count:
            raise FatalError(
                "engine-gpu-missing",
                f"There is no GPU that CUDA can use here ({error.name}).",
                hint="Run this where the GPU is; `nvidia-smi` lists it, and shows its driver. "
                "For cudaErrorInsufficientDriver: pip install 'cuda-bindings<13', or a newer driver.",
            )
        self._do("cudaFree", 0)  # makes the context, without which TensorRT-RTX takes no cache
        (facts,) = self._do("cudaGetDeviceProperties", 0)
        name = facts.name
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.capability = f"{facts.major}.{facts.minor}"

    def allocate(self, size: int) -> int:
        """See `Device`."""
        (address,) = self._do("cudaMalloc", max(size, 1))
        self._do("cudaMemset", address, 0, max(size, 1))
        self._do("cudaStreamSynchronize", 0)  # our streams do not wait for the default one
        return int(address)

    def release(self, address: int) -> None:
        """See `Device`."""
        self._do("cudaFree", address)

    def pin(self, size: int) -> Pinned:
        """See `Device`."""
        return _PinnedMemory(self._do, max(size, 1))

    def stream(self) -> int:
        """See `Device`."""
        # Not blocking: the default stream, which other libraries use, does not wait for it.
        (stream,) = self._do("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return int(stream)

    def end(self, stream: int) -> None:
        """See `Device`."""
        self._do("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """See `Device`."""
        self._do("cudaStreamSynchronize", stream)

    def mark(self, stream: int) -> Mark:
        """See `Device`."""
        return _CudaEvent(self._do, self._cuda.cudaEventDisableTiming, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Device`."""
        if size:
            self._do("cudaMemcpyAsync", target, source, size, self._either_way(), stream)

    def copy_rows(self, target: Rows, source: Rows, *, width: int, count: int, stream: int) -> None:
        """See `Device`."""
        if width and count:
            way = self._either_way()
            self._do("cudaMemcpy2DAsync", *target, *source, width, count, way, stream)

    def clear(self, target: int, size: int, stream: int) -> None:
        """See `Device`."""
        if size:
            self._do("cudaMemsetAsync", target, 0, size, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """See `Device`."""
        # Of this thread only: meanwhile other threads may allocate.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(stream)  # the capture is broken: there is no graph to keep
            raise
        (graph,) = self._do("cudaStreamEndCapture", stream)
        try:
            (ready,) = self._do("cudaGraphInstantiate", graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)
        return _CudaGraph(self._do, ready)

    def _either_way(self) -> Any:
        return self._cuda.cudaMemcpyKind.cudaMemcpyDefault

    def _do(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call a function of the CUDA runtime; return what it gives besides its status."""
        status, *found = getattr(self._cuda, name)(*arguments)
        if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise FatalError(
                "engine-cuda",
                f"The GPU failed: {name} returned {status.name}.",
                hint="Nothing more can be done on it in this process: restart it. If that lasts, see dmesg.",
            )
        return tuple(found)


class _PinnedMemory:
    """Host memory of the CUDA runtime."""

    def __init__(self, do: Callable[..., tuple[Any, ...]], size: int) -> None:
        (address,) = do("cudaMallocHost", size)
        self.address = int(address)
        self.array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))
        finalize(self, do, "cudaFreeHost", self.address).atexit = False


class _CudaEvent:
    """An event recorded on a stream."""

    def __init__(self, do: Callable[..., tuple[Any, ...]], flags: int, stream: int) -> None:
        self._do = do
        (self._event,) = do("cudaEventCreateWithFlags", flags)
        finalize(self, do, "cudaEventDestroy", self._event).atexit = False
        do("cudaEventRecord", self._event, stream)

    def wait(self) -> None:
        """See `Mark`."""
        self._do("cudaEventSynchronize", self._event)


class _CudaGraph:
    """An instantiated CUDA graph."""

    def __init__(self, do: Callable[..., tuple[Any, ...]], ready: Any) -> None:
        self._do, self._ready = do, ready
        finalize(self, do, "cudaGraphExecDestroy", ready).atexit = False

    def launch(self, stream: int) -> None:
        """See `Graph`."""
        self._do("cudaGraphLaunch", self._ready, stream)


def _bindings() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise FatalError(
            "engine-cuda",
            f"NVIDIA's CUDA bindings cannot be loaded ({error}).",
            hint="In a checkout run `make setup`; elsewhere: pip install 'histgen[tensorrt]'",
        ) from error

"""Running an engine: memory that is kept from run to run, one lane of work or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from queue import LifoQueue
from threading import Lock
from typing import Any

import numpy as np

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.engines.device import Device, Pinned
from histgen_lib.models.engines.numbers import Array, numbers, storage, stored
from histgen_lib.models.engines.record import EngineRecord, Shape, TensorFacts
from histgen_lib.models.engines.runtime import Messages, RuntimeCache, new_context
from histgen_lib.models.serving import Tensors

_PIECE = 8 << 20
"""Bytes."""
_SCRATCH = " scratch"
"""What a lane's networks compute in; no tensor has such a name."""
_LEAST_SCRATCH = 256
"""Bytes: a network that needs none for these sizes has to be given some all the same."""


class Engine:
    """A compiled network on its device, as `open_engine` gives it, with what its record says of it."""

    def __init__(
        self, trt: Any, opened: Any, record: EngineRecord, device: Device, cache: RuntimeCache | None = None
    ) -> None:
        self.record, self.device = record, device
        self.inputs = {one.name: one for one in record.inputs}
        self.outputs = {one.name: one for one in record.outputs}
        self._trt, self._opened, self._cache = trt, opened, cache
        self._profiles: Sequence[int] = range(len(record.profiles))
        self._said, self._lock = self.listen(), Lock()

    def only(self, profile: int) -> Engine:
        """Return the same engine, as if it had this profile alone."""
        narrowed = copy(self)
        narrowed._profiles = (profile,)
        return narrowed

    def fitting(self, shapes: Mapping[str, Shape]) -> int | None:
        """Return the first profile that takes these shapes, if one does."""
        for place in self._profiles:
            ranges = self.record.profiles[place].items()
            if all(_within(shapes[name], least, most) for name, (least, _, most) in ranges):
                return place
        return None

    def profile(self, shapes: Mapping[str, Shape]) -> int:
        """Return the first profile that takes these shapes. Raises InvalidInputError("engine-size")."""
        found = self.fitting(shapes)
        if found is not None:
            return found
        largest = {name: most for name, (_, _, most) in self.record.profiles[-1].items()}
        beyond = [name for name, most in largest.items() if not _within(shapes[name], (0,) * len(most), most)]
        limits = ", ".join(f"{name} {list(largest[name])}" for name in beyond)
        raise InvalidInputError(
            "engine-size",
            f"{self.record.name} takes at most {limits}; this is"
            f" {', '.join(str(list(shapes[name])) for name in beyond)}.",
            hint="Compile the model for larger slides: `histgen compile --tiles`.",
        )

    def context(self, profile: int, stream: int) -> Any:
        """Return a new context for one profile, without memory. Raises MemoryError."""
        with self._lock:
            context = new_context(self._trt, self._opened, self.record, self._cache)
        if context is None:
            raise MemoryError
        if profile and not context.set_optimization_profile_async(profile, stream):
            raise self.failed(f"profile {profile} is refused")
        self.device.wait(stream)
        return context

    def keep_cache(self) -> None:
        """Keep what was compiled for this GPU, so that the next start is quick (TensorRT-RTX)."""
        if self._cache is not None:
            with self._lock:
                self._cache.save()

    def listen(self) -> Messages:
        """Return what TensorRT says from here on."""
        return Messages(self._trt)

    def failed(self, reason: str) -> FatalError:
        """Make the error for an engine that does not do what its record says, with TensorRT's last words."""
        words = self._said.last[:300]
        return FatalError(
            "engine-run",
            f"The engine {self.record.name} did not run: {reason}{f' ({words})' if words else ''}.",
            hint="Compile the model again on this machine; if that lasts, see the GPU's state in nvidia-smi.",
        )


class Lane:
    """One run at a time: a stream, contexts, and memory on the device by tensor, which grows as needed."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.device = engine, engine.device
        self.stream = engine.device.stream()
        self._contexts: dict[int, Any] = {}
        self._memory: dict[str, tuple[int, int]] = {}
        self._staging: dict[str, Pinned] = {}

    def prepare(self, shapes: Mapping[str, Shape]) -> Any:
        """Make the context ready for inputs of these shapes, with memory of the lane; return it."""
        context = self.sized(shapes)
        for name, facts in (self.engine.inputs | self.engine.outputs).items():
            size = nbytes(facts.dtype, tuple(context.get_tensor_shape(name)))
            self.place(context, name, self.memory(name, size))
        return context

    def sized(self, shapes: Mapping[str, Shape]) -> Any:
        """Return the context for inputs of these shapes, with memory to compute in; it knows the outputs'.

        Raises as `Engine.profile`, and MemoryError.
        """
        profile = self.engine.profile(shapes)
        if profile not in self._contexts:
            self._contexts[profile] = self.engine.context(profile, self.stream)
        context = self._contexts[profile]
        for name, shape in shapes.items():
            if not context.set_input_shape(name, tuple(shape)):
                raise self.engine.failed(f"it does not take {name} {list(shape)}")
        missing = context.infer_shapes()
        if missing:
            raise self.engine.failed(f"sizes of {', '.join(missing)} are unknown")
        said = self.engine.listen()
        scratch = context.update_device_memory_size_for_shapes()
        if not scratch and said.last:  # 0 stands for an error as well as for none
            raise self.engine.failed("its need of memory is unknown")
        scratch = max(scratch, _LEAST_SCRATCH)
        context.set_device_memory(self.memory(_SCRATCH, scratch), scratch)
        return context

    def place(self, context: Any, name: str, address: int) -> None:
        """Say where a tensor lies on the device."""
        if not context.set_tensor_address(name, address):
            raise self.engine.failed(f"{name} has no place")

    def start(self, context: Any) -> None:
        """Start the network on the lane's stream."""
        if not context.execute_async_v3(self.stream):
            raise self.engine.failed("TensorRT refuses to start it")

    def memory(self, name: str, size: int) -> int:
        """Return the address of at least `size` bytes on the device for `name`: never null, even for none."""
        address, held = self._memory.get(name, (0, -1))
        if held < size:
            if address:
                del self._memory[name]  # first: there may be no memory for the larger one
                self.device.release(address)
            address = self.device.allocate(size)
            self._memory[name] = address, size
        return address

    def send(self, name: str, values: Array, address: int) -> None:
        """Copy an array, in the engine's number format, to the device; the array may change at once.

        Once for each name, then wait: the next array takes the same way.
        """
        flat = values.reshape(-1).view(np.uint8)
        staging = self._stage(name, flat.size)
        for start in range(0, flat.size, _PIECE):  # the device takes one piece while the host copies the next
            end = min(start + _PIECE, flat.size)
            staging.array[start:end] = flat[start:end]
            self.device.copy(address + start, staging.address + start, end - start, self.stream)

    def fetch(self, wanted: Mapping[str, tuple[int, TensorFacts, Shape]]) -> dict[str, Array]:
        """Wait for the stream, and return arrays from the device: address, facts and shape by name."""
        for name, (address, facts, shape) in wanted.items():
            size = nbytes(facts.dtype, shape)
            self.device.copy(self._stage(name, size).address, address, size, self.stream)
        self.device.wait(self.stream)
        return {name: self._taken(name, facts, shape) for name, (_, facts, shape) in wanted.items()}

    def close(self) -> None:
        """Give its memory back; waits for its work. It is of no use afterwards."""
        self.device.wait(self.stream)
        self._contexts.clear()
        for address, _ in self._memory.values():
            self.device.release(address)
        self._memory.clear()
        self.device.end(self.stream)

    def _taken(self, name: str, facts: TensorFacts, shape: Shape) -> Array:
        raw = self._staging[name].array[: nbytes(facts.dtype, shape)].copy()
        return numbers(raw.view(storage(facts.dtype)).reshape(shape), facts.dtype)

    def _stage(self, name: str, size: int) -> Pinned:
        if name not in self._staging or len(self._staging[name].array) < size:
            self.device.wait(self.stream)  # a copy from the smaller one may be under way
            self._staging[name] = self.device.pin(size)
        return self._staging[name]


class EngineSession:
    """A `Session` over an engine: NumPy arrays in and out. Safe to use from several threads.

    `instances`: how many runs may be under way at once; each has memory of its own.
    """

    def __init__(self, engine: Engine, instances: int = 1) -> None:
        self.engine = engine
        self._idle: LifoQueue[Lane | None] = LifoQueue()
        for _ in range(instances):
            self._idle.put(None)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the network; outputs by name, bfloat16 ones as float32. Raises as `Lane.prepare`."""
        arrays = {name: stored(inputs[name], facts.dtype) for name, facts in self.engine.inputs.items()}
        with self.lane() as lane:
            context = lane.prepare({name: array.shape for name, array in arrays.items()})
            for name, array in arrays.items():
                lane.send(name, array, context.get_tensor_address(name))
            lane.start(context)
            return lane.fetch(
                {
                    name: (context.get_tensor_address(name), facts, tuple(context.get_tensor_shape(name)))
                    for name, facts in self.engine.outputs.items()
                }
            )

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """Lend a lane; waits while all are in use. The latest used comes first: its memory has grown."""
        lane = self._idle.get()
        try:
            lane = lane or Lane(self.engine)
            yield lane
        finally:
            self._idle.put(lane)

    def close(self) -> None:
        """Give its memory back, once no run is under way."""
        while not self._idle.empty():
            lane = self._idle.get()
            if lane is not None:
                lane.close()


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the size of a tensor in bytes."""
    return int(np.prod(shape, dtype=np.int64)) * storage(dtype).itemsize


def _within(shape: Shape, least: Shape, most: Shape) -> bool:
    return len(shape) == len(most) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

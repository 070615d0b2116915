"""One request to a Triton server and its answer: big inputs in shared memory, everything else in the message.

Answers are small compared with requests, and gain nothing from shared memory (measured). So the server never
writes into our memory, however late it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference.shared_memory import Region, RegionPool
from histgen_lib.inference.wire import (
    BATCHING,
    DTYPES,
    ENGINES,
    REQUEST_TYPES,
    TRITON_TYPES,
    VERSION,
    joined,
    wire_name,
)
from histgen_lib.models.serving import Batching, ModelMetadata, Tensors, TensorSpec

_BIG_BYTES = 64 << 10
"""Smaller tensors travel in the message, where they cost less."""
_ALIGN = 64

Place = tuple[int, int]
"""A tensor's place in a region: offset and size in bytes."""


@dataclass(frozen=True)
class TritonModel:
    """A model as its server's configuration describes it.

    `largest`: how many rows a request may have. `runs_on`: the server's backend, and the engines that this
    drives, if any.
    """

    metadata: ModelMetadata
    batching: Batching
    largest: int
    runs_on: tuple[str, ...] = ()

    def split(self, tensors: Tensors) -> list[dict[str, npt.NDArray[Any]]]:
        """Cut tensors into requests that the server takes. Raises InvalidInputError("tensor-shape")."""
        if self.batching == "bags":
            return [dict(tensors)]
        rows = len(next(iter(tensors.values())))
        if rows == 0:
            raise InvalidInputError("tensor-shape", f"The request to {self.metadata.name} is empty.")
        return [
            {name: value[start : start + self.largest] for name, value in tensors.items()}
            for start in range(0, rows, self.largest)
        ]

    def on_wire(self, value: npt.NDArray[Any]) -> tuple[int, ...]:
        """Return the shape of a tensor as it travels."""
        return (1, *value.shape) if self.batching == "bags" else value.shape

    def off_wire(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Undo `on_wire`."""
        return tuple(shape[1:] if self.batching == "bags" else shape)


def read_model(config: Any) -> TritonModel:
    """Read a ModelConfig message."""
    parameters: Mapping[str, str] = {key: one.string_value for key, one in config.parameters.items()}
    batching: Batching = "bags" if parameters.get(BATCHING) == "bags" else "rows"
    lead = () if batching == "bags" or config.max_batch_size == 0 else (-1,)
    metadata = ModelMetadata(
        config.name,
        parameters.get(VERSION, ""),
        inputs=joined([_spec(one, lead) for one in config.input]),
        outputs=tuple(_spec(one, lead) for one in config.output),
    )
    runs_on = tuple(filter(None, (config.backend or config.platform, parameters.get(ENGINES))))
    return TritonModel(metadata, batching, largest=max(config.max_batch_size, 1), runs_on=runs_on)


def _spec(tensor: Any, lead: tuple[int, ...]) -> TensorSpec:
    names = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    dtype = DTYPES[names[tensor.data_type].name.removeprefix("TYPE_")]
    return TensorSpec(
        tensor.name, dtype, (*lead, *tensor.dims), optional=bool(getattr(tensor, "optional", False))
    )


class Exchange:
    """Requests to one server. For several threads."""

    def __init__(self, connection: Connection, regions: RegionPool) -> None:
        self._connection, self._regions = connection, regions

    def ask(self, model: TritonModel, tensors: Tensors, deadline_s: float) -> dict[str, npt.NDArray[Any]]:
        """Have the model answer. Raises CallFailedError."""
        places = _places(tensors)
        region = self._regions.take(max(map(sum, places.values()))) if places else None
        if region is None:
            return self._ask(model, [_message(model, *item) for item in tensors.items()], deadline_s)
        try:
            inputs = [
                _laid(model, name, value, region, places[name])
                if name in places
                else _message(model, name, value)
                for name, value in tensors.items()
            ]
            answer = self._ask(model, inputs, deadline_s)
        except CallFailedError as failed:
            self._put_away(region, failed)
            raise
        except BaseException:
            self._regions.retire(region)
            raise
        self._regions.give_back(region)
        return answer

    def close(self) -> None:
        """Release the memory shared with the server."""
        self._regions.close()

    def _put_away(self, region: Region, failed: CallFailedError) -> None:
        if failed.region_lost:
            self._regions.forget(region)
        elif failed.unanswered:
            self._regions.retire(region)
        else:
            self._regions.give_back(region)

    def _ask(self, model: TritonModel, inputs: list[Any], deadline_s: float) -> dict[str, npt.NDArray[Any]]:
        result = self._connection.infer(
            model.metadata.name,
            inputs,
            timeout_s=max(deadline_s, 0.001),
            parameters={VERSION: model.metadata.version},
        )
        return {spec.name: _output(model, result, spec) for spec in model.metadata.outputs}


def _places(tensors: Tensors) -> dict[str, Place]:
    """Lay the big tensors one after the other."""
    found: dict[str, Place] = {}
    start = 0
    for name, value in tensors.items():
        if value.dtype != object and value.nbytes >= _BIG_BYTES:
            found[name] = (start, value.nbytes)
            start += -(-value.nbytes // _ALIGN) * _ALIGN
    return found


def _message(model: TritonModel, name: str, value: npt.NDArray[Any]) -> Any:
    """Make an input that travels in the message."""
    sent = np.ascontiguousarray(value).reshape(model.on_wire(value))
    return _input(model, name, value).set_data_from_numpy(sent)


def _laid(model: TritonModel, name: str, value: npt.NDArray[Any], region: Region, place: Place) -> Any:
    """Make an input that lies in shared memory."""
    offset, size = place
    np.ndarray(value.shape, value.dtype, buffer=region.memory, offset=offset)[...] = value
    return _input(model, name, value).set_shared_memory(region.name, size, offset)


def _input(model: TritonModel, name: str, value: npt.NDArray[Any]) -> Any:
    from tritonclient.grpc import InferInput

    spec = next(spec for spec in model.metadata.inputs if spec.name == name)
    dtype = "str" if value.dtype == object else value.dtype.name
    return InferInput(
        wire_name(spec, dtype), list(model.on_wire(value)), REQUEST_TYPES.get(dtype, TRITON_TYPES[dtype])
    )


def _output(model: TritonModel, result: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    try:
        received: npt.NDArray[Any] = result.as_numpy(spec.name)
        value = received.reshape(model.off_wire(received.shape)).copy()
    except (ValueError, AttributeError):  # no bytes for its shape, or no such output
        value = np.empty(())
    if value.ndim != len(spec.shape) or any(
        expected not in {-1, size} for expected, size in zip(spec.shape, value.shape, strict=True)
    ):
        raise CallFailedError(
            FatalError(
                "inference-empty-output",
                f"The model server's {model.metadata.name} returns no {spec.name}, or one of the wrong size.",
                hint="Install numpy 1.26 for the server's Python: with numpy 2 its answers are empty.",
            )
        )
    return value

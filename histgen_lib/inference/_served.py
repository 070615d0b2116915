"""A model as a Triton server has it: what its configuration says about requests to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import ModelMetadata, Tensors, TensorSpec
from histgen_lib.inference.wire import BATCHING, DTYPES, VERSION, Batching, joined


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; `largest` is how many rows one request may have."""

    metadata: ModelMetadata
    batching: Batching
    largest: int

    def split(self, tensors: Tensors) -> list[dict[str, npt.NDArray[Any]]]:
        """Cut tensors into requests that the server takes. Raises InvalidInputError("tensor-shape")."""
        if self.batching == "bags":
            return [dict(tensors)]
        rows = len(next(iter(tensors.values())))
        if rows == 0:
            raise InvalidInputError("tensor-shape", f"There is nothing for {self.metadata.name} to work on.")
        return [
            {name: value[start : start + self.largest] for name, value in tensors.items()}
            for start in range(0, rows, self.largest)
        ]

    def on_wire(self, value: npt.NDArray[Any]) -> tuple[int, ...]:
        """Shape of a tensor as it travels."""
        return (1, *value.shape) if self.batching == "bags" else value.shape

    def off_wire(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Undo `on_wire`."""
        return tuple(shape[1:] if self.batching == "bags" else shape)


def served_model(config: Any) -> ServedModel:
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
    return ServedModel(metadata, batching, largest=max(config.max_batch_size, 1))


def _spec(tensor: Any, lead: tuple[int, ...]) -> TensorSpec:
    names = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    dtype = DTYPES[names[tensor.data_type].name.removeprefix("TYPE_")]
    return TensorSpec(
        tensor.name, dtype, (*lead, *tensor.dims), optional=bool(getattr(tensor, "optional", False))
    )

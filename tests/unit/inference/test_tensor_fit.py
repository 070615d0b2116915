"""Tensors are brought into the form that a model's description asks for, or refused by what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import ModelMetadata
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.serving import MODEL
from histgen_lib.models.serving import fitted


@pytest.fixture(scope="module")
def histgen(model_dir: Path) -> ModelMetadata:
    return MODEL.metadata(open_model_folder(model_dir))


def bag(**changes: Any) -> dict[str, np.ndarray]:
    return {"features": np.zeros((3, 16), np.float16), "xy": np.zeros((3, 2), np.int32)} | changes


@pytest.mark.parametrize(
    ("source", "dtype"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("int16", "float32")],
)
def test_numbers_are_converted_if_nothing_significant_is_lost(
    histgen: ModelMetadata, source: str, dtype: str
) -> None:
    found = fitted(bag(features=np.ones((3, 16), source)), histgen)["features"]
    assert found.dtype.name == dtype
    assert (found == 1).all()


def test_single_values_may_come_in_any_shape(histgen: ModelMetadata) -> None:
    tensors = bag(beam_size=np.array(4), seed=np.array([[7]], np.int8), method="greedy")
    found = fitted(tensors, histgen)
    assert {name: found[name].tolist() for name in ("beam_size", "seed", "method")} == {
        "beam_size": [4],
        "seed": [7],
        "method": ["greedy"],
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"features": np.zeros((3, 17))}, "bag-shape"),
        ({"features": np.zeros(16)}, "bag-shape"),
        ({"features": np.zeros((3, 16), complex)}, "bag-shape"),
        ({"xy": np.zeros((3, 2))}, "bag-shape"),
        ({"xy": np.full((3, 2), 2**33)}, "bag-shape"),
        ({"slide": np.array(["a"])}, "bag-shape"),
        ({"seed": np.array([])}, "decoding-settings"),
        ({"method": np.array([1])}, "decoding-settings"),
        ({"temperature": np.array(["hot"])}, "decoding-settings"),
        ({"colour": np.zeros(1)}, "tensor-unknown"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    histgen: ModelMetadata, changes: dict[str, np.ndarray], code: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        fitted(bag(**changes), histgen)
    assert caught.value.code == code
    assert next(iter(changes)) in caught.value.message


def test_all_missing_tensors_are_named(histgen: ModelMetadata) -> None:
    with pytest.raises(InvalidInputError, match="features, xy") as caught:
        fitted({}, histgen)
    assert caught.value.code == "tensor-missing"

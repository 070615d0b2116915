"""What the numerical gate lets pass, and how numbers are rounded for it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histgen_lib.errors import FatalError
from histgen_lib.models.engines.gate import TOLERANCES, Case, load_cases, pass_gate, save_cases
from histgen_lib.models.engines.numbers import numbers, rounded, stored
from histgen_lib.models.engines.record import Tolerance

ALLOWED = Tolerance(relative=0.01, cosine=0.999)


class Answers:
    """A session that always answers the same."""

    def __init__(self, **outputs: np.ndarray) -> None:
        self.outputs = outputs

    def run(self, inputs: object) -> dict[str, np.ndarray]:
        return self.outputs


def share(name: str, wanted: object, found: object) -> float:
    wanted, found = (np.asarray(values, dtype=np.float32) for values in (wanted, found))
    return pass_gate(Answers(**{name: found}), [Case({}, {name: wanted})], ALLOWED, "engine").share


def refused(name: str, wanted: object, found: object) -> bool:
    with pytest.raises(FatalError) as caught:
        share(name, wanted, found)
    return caught.value.code == "engine-numbers"


def test_an_error_counts_relative_to_the_outputs_scale() -> None:
    assert share("cross", [100.0, 1.0], [100.0, 1.5]) == pytest.approx(0.5)
    assert refused("cross", [100.0, 1.0], [100.0, 2.5])


def test_the_worst_output_of_all_runs_is_found() -> None:
    right, wrong = np.ones(3), np.array([1.0, 1.0, 1.5])
    cases = [Case({}, {"cross": right, "tile_weights": right}), Case({}, {"cross": right})]
    with pytest.raises(FatalError) as caught:
        pass_gate(Answers(cross=right, tile_weights=wrong), cases, ALLOWED, "engine")
    assert "'tile_weights' is 50 times as far" in caught.value.message


def test_features_have_to_point_the_same_way() -> None:
    wanted = np.zeros((2, 400), np.float32)
    wanted[:, 0] = 1.0
    found = wanted + np.where(np.arange(400) % 2, 0.009, -0.009)
    assert refused("features", wanted, found)
    assert share("cross", wanted, found) < 1


def test_infinities_have_to_be_the_same() -> None:
    assert share("scores", [-np.inf, 1.0], [-np.inf, 1.0]) == 0
    assert refused("scores", [-np.inf, 1.0], [np.inf, 1.0])
    assert refused("scores", [-np.inf, 1.0], [-9.0, 1.0])
    assert refused("scores", [0.0, 1.0], [np.nan, 1.0])


def test_another_shape_is_refused() -> None:
    assert refused("cross", [[1.0, 2.0]], [1.0, 2.0])


def test_of_what_a_search_chose_half_has_to_agree() -> None:
    assert share("next_tokens", [5, 7, 9, 2], [5, 7, 2, 9]) == pytest.approx(1.0)
    assert refused("next_tokens", [5, 7, 9, 2], [5, 1, 2, 9])


def test_recorded_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    cases = [
        Case({"a": np.arange(3), "empty": np.zeros((0, 2), np.float16)}, {"b": np.eye(2, dtype=np.float32)}),
        Case({"a": np.array([True, False])}, {"b": np.zeros((1, 1), np.uint8)}),
    ]
    save_cases(cases, tmp_path / "cases")
    for found, wanted in zip(load_cases(tmp_path / "cases"), cases, strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert {name: value.dtype for name, value in one.items()} == {
                n: v.dtype for n, v in other.items()
            }
            assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_lower_precision_is_allowed_more() -> None:
    relative = [TOLERANCES[name].relative for name in ("float32", "float16", "bfloat16")]
    assert relative == sorted(relative)


@given(arrays(np.float32, 16, elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_others_round_it(values: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)


def test_bfloat16_is_stored_in_two_bytes() -> None:
    bits = stored(np.array([1.0, -2.0]), "bfloat16")
    assert (bits.dtype, bits.tolist()) == (np.uint16, [0x3F80, 0xC000])
    assert numbers(bits, "bfloat16").tolist() == [1.0, -2.0]

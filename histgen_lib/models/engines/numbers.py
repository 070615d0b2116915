"""Arrays in the number formats of engines: bfloat16, which NumPy lacks, is kept as its bits in uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BFLOAT16 = "bfloat16"


def storage(dtype: str) -> np.dtype[Any]:
    """Return the NumPy type that holds an engine's dtype: uint16 for "bfloat16", else that of its name."""
    return np.dtype(np.uint16 if dtype == BFLOAT16 else dtype)


def stored(values: Array, dtype: str) -> Array:
    """Convert numbers to what an engine's input of `dtype` holds, contiguous."""
    if dtype == BFLOAT16:
        return _bfloat16_bits(np.ascontiguousarray(values, dtype=np.float32))
    with np.errstate(over="ignore"):  # beyond float16: infinite, as the engine's own cast has it
        return np.ascontiguousarray(values, dtype=storage(dtype))


def numbers(values: Array, dtype: str) -> Array:
    """Convert what an engine's output of `dtype` holds to numbers: bfloat16 to float32, the rest as it is."""
    if dtype == BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def rounded(values: Array, dtype: str) -> Array:
    """Round numbers to those that `dtype` has, in a type of NumPy's: float32 for "bfloat16"."""
    return numbers(stored(values, dtype), dtype)


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; what is not a number stays none."""
    bits = values.view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    # Rounding up the payload of a NaN could make an infinity of it, or carry into the sign.
    found = np.where(np.isnan(values), bits | np.uint32(0x0040_0000), nearest)
    return (found >> np.uint32(16)).astype(np.uint16)

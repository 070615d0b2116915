"""What every layout's reader refuses in the same words: damage, absurd sizes, numbers no bag can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError

_MOST_VALUES = 1 << 29
"""Features of one slide as float16 fill 1 GiB then: 350,000 tiles of 1536, more than any slide gives."""

_LARGEST_HALF = 65504.0


def unreadable(name: str, why: str) -> InvalidInputError:
    """Say that the bag called `name` is damaged or laid out in an unknown way."""
    return InvalidInputError(
        "bag-unreadable",
        f"{name} cannot be read as a bag: {why}.",
        hint="The file is damaged or of another layout. Extract the features again, or copy it again.",
    )


def check_size(name: str, shape: Sequence[int]) -> None:
    """Refuse an array by what the file says of its `shape`, before it takes any memory.

    Raises InvalidInputError("bag-too-large").
    """
    if math.prod(shape) > _MOST_VALUES:
        raise InvalidInputError(
            "bag-too-large",
            f"{name} declares an array of {' × '.join(map(str, shape))} numbers: no slide's bag has so many.",
            hint="The file is damaged, or holds the tiles of many slides. Write one file for each slide.",
        )


def halves(name: str, features: NDArray[Any]) -> NDArray[np.float16]:
    """Give features of any real type as float16; those that are no finite numbers stay so (Bag refuses them).

    Raises InvalidInputError: "bag-invalid" for values beyond float16, "bag-unreadable" for what is no number.
    """
    if features.dtype.kind not in "fiu":
        raise unreadable(name, f"its features are {features.dtype}, not numbers")
    largest = float(np.max(np.abs(features), initial=0, where=np.isfinite(features)))
    if largest > _LARGEST_HALF:
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: its features reach {largest:.6g}, and a bag holds numbers up to "
            f"{_LARGEST_HALF:.0f} (float16).",
            hint="Divide the features of all slides by the same number before they are written, "
            "or take the encoder's normalised output.",
        )
    return features.astype(np.float16)


def whole_px(name: str, coords: NDArray[Any]) -> NDArray[np.int32]:
    """Give coordinates of any real type as int32, rounded.

    Raises InvalidInputError: "bag-invalid" for those that are not finite or beyond any slide,
    "bag-unreadable" for what is no number.
    """
    if coords.dtype.kind not in "fiu":
        raise unreadable(name, f"its coords are {coords.dtype}, not numbers")
    rounded = np.rint(coords) if coords.dtype.kind == "f" else coords
    if not (np.abs(rounded.astype(np.float64)) < 2**31).all():  # False for NaN
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: some of its coords are not finite numbers, or beyond any slide.",
            hint="Extract the features of this slide again.",
        )
    return np.ascontiguousarray(rounded.astype(np.int32))

"""What every layout's reader refuses in the same words: damage, absurd sizes, numbers no bag can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError

_MOST_VALUES = 1 << 29
"""Features of one slide as float16 fill 1 GiB then: 350,000 tiles of 1536, more than any slide gives."""

_MOST_TILES = 1 << 20
"""A slide of 200,000 px square in tiles of 224 px has 800,000."""

_BLOCK_VALUES = 1 << 24
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
    if math.prod(shape) > _MOST_VALUES or math.prod(shape[:-1]) > _MOST_TILES:
        raise InvalidInputError(
            "bag-too-large",
            f"{name} declares an array of {_size(shape)} numbers: no slide's bag has so many.",
            hint="The file is damaged, or holds the tiles of many slides. Write one file for each slide.",
        )


def halves(name: str, shape: Sequence[int], part: Callable[[slice], NDArray[Any]]) -> NDArray[np.float16]:
    """Give features [N, …] of any real type as float16; those that are no finite numbers stay so.

    `part` gives some rows, so that features of a wider type are never in memory as a whole. Raises
    InvalidInputError: "bag-invalid" for values beyond float16, "bag-unreadable" for what is no number.
    """
    made, largest = np.zeros(shape, np.float16), 0.0
    tiles = shape[0] if shape else 0
    step = max(1, _BLOCK_VALUES * tiles // max(1, made.size))
    for start in range(0, tiles, step):
        rows = slice(start, start + step)
        block = part(rows)
        if block.dtype.kind not in "fiu":
            raise unreadable(name, "its features are no numbers")
        largest = max(largest, float(np.max(np.abs(block), initial=0, where=np.isfinite(block))))
        if largest <= _LARGEST_HALF:
            made[rows] = block
    if largest > _LARGEST_HALF:
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: its features reach {largest:.6g}, and a bag holds numbers up to "
            f"{_LARGEST_HALF:.0f} (float16).",
            hint="Divide the features of all slides by the same number before they are written, "
            "or take the encoder's normalised output.",
        )
    return made


def check_places(name: str, features: Sequence[int], coords: Sequence[int]) -> None:
    """Refuse arrays of these shapes that do not belong together, before they are read: "bag-invalid"."""
    if features[:1] != coords[:1]:
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: its features are {_size(features)}, its coords {_size(coords)}.",
            hint="Extract the features of this slide again: every tile has one row in both.",
        )


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def whole_px(name: str, coords: NDArray[Any]) -> NDArray[np.int32]:
    """Give coordinates of any real type as int32, rounded.

    Raises InvalidInputError: "bag-invalid" for those that are not finite or beyond any slide,
    "bag-unreadable" for what is no number.
    """
    if coords.dtype.kind not in "fiu":
        raise unreadable(name, "its coords are no numbers")
    rounded = np.rint(coords) if coords.dtype.kind == "f" else coords
    if not (np.abs(rounded.astype(np.float64)) < 2**31).all():  # False for NaN
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: some of its coords are not finite numbers, or beyond any slide.",
            hint="Extract the features of this slide again.",
        )
    return np.ascontiguousarray(rounded.astype(np.int32))

"""A slide's bag as models take it: features and places of its tiles, checked. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.serving import Tensors

Features = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_ROWS_A_LOOK = 4096


def bag_of(tensors: Tensors, input_dim: int) -> tuple[Features, Ints]:
    """Return "features" float16|float32[N, D] and "xy" int64[N, 2], level-0 px, of a request.

    Raises InvalidInputError: "tensor-missing", "bag-shape", "bag-not-finite".
    """
    missing = [name for name in ("features", "xy") if name not in tensors]
    if missing:
        raise InvalidInputError("tensor-missing", f"The request lacks {', '.join(missing)}.")
    features, xy = _features(tensors["features"]), np.asarray(tensors["xy"])
    if features.ndim != 2 or features.shape[1] != input_dim or xy.shape != (len(features), 2):
        raise InvalidInputError(
            "bag-shape",
            f"This model takes features [tiles, {input_dim}] and xy [tiles, 2]; "
            f"these are {list(features.shape)} and {list(xy.shape)}.",
            hint="Encode the slide with the tile encoder that the model was trained with.",
        )
    if not _finite(features):
        raise InvalidInputError(
            "bag-not-finite", "Some tile features are not numbers.", hint="Encode the slide again."
        )
    return features, xy.astype(np.int64)


def grid_spacing_px(xy: Ints) -> float:
    """Return the smallest distance between columns or rows of tiles, in level-0 px; 1 for a single tile."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in np.asarray(xy).T])
    return float(steps.min()) if steps.size else 1.0


def _features(values: npt.NDArray[Any]) -> Features:
    """Return the features as they are if they are float16, else as float32."""
    rows = np.asarray(values)
    return rows if rows.dtype == np.float16 else rows.astype(np.float32, copy=False)


def _finite(features: Features) -> bool:
    """Return whether all features are finite. In parts: a truth value for each takes as much as the bag."""
    parts = range(0, len(features), _ROWS_A_LOOK)
    return all(_all_numbers(features[part : part + _ROWS_A_LOOK]) for part in parts)


def _all_numbers(features: Features) -> bool:
    if features.dtype != np.float16:
        return bool(np.isfinite(features).all())
    # By the exponent's bits: NumPy converts each float16 first, which takes 20 times as long.
    return bool(((features.view(np.uint16) & 0x7FFF) < 0x7C00).all())

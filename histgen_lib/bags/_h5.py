"""Bags that CLAM and TRIDENT wrote: HDF5 with `features` [N,D] or [1,N,D] and `coords` [N,2] (level-0 px).

TRIDENT writes the tiling as attributes of `coords` (patch_size, patch_size_level0, level0_magnification,
target_magnification, level0_width, level0_height, name). CLAM writes patch_size, patch_level and downsample
into its coordinate files, and nothing into its feature files; there the tile's side is taken from the
spacing of the tiles. A magnification M is read as 10 / M µm per pixel, the convention of both tools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags._damage import unreadable
from histgen_lib.bags.bag import Bag
from histgen_lib.errors import InvalidInputError

_MICROMETRES_AT_1X = 10.0


def read(path: Path) -> Bag:
    """Read a feature file of CLAM or TRIDENT; what it does not say is NaN, 0 or empty in the bag."""
    try:
        with h5py.File(path, "r") as file:
            missing = [
                name for name in ("features", "coords") if not isinstance(file.get(name), h5py.Dataset)
            ]
            if missing:
                raise unreadable(path.name, f"it has no {' and no '.join(missing)}")
            features, coords = (_without_batch(np.asarray(file[name])) for name in ("features", "coords"))
            attributes = {**dict(file.attrs), **dict(file["coords"].attrs)}
        return _bag(path, features, coords, attributes)
    except InvalidInputError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise unreadable(path.name, "it is not an HDF5 file of features") from error


def _bag(path: Path, features: NDArray[Any], coords: NDArray[Any], attributes: Mapping[str, Any]) -> Bag:
    with np.errstate(over="ignore"):  # too large for float16 becomes infinite, which the bag refuses by name
        halves = features.astype(np.float16)
    xy = np.ascontiguousarray(coords.astype(np.int32))
    return Bag(
        slide_id=str(attributes.get("name") or path.stem),
        features=halves,
        xy=xy,
        span_px=_span_px(xy, attributes),
        tile_px=int(_number(attributes, "patch_size", 0)),
        mpp=_MICROMETRES_AT_1X / _number(attributes, "target_magnification"),
        slide_mpp=_MICROMETRES_AT_1X / _number(attributes, "level0_magnification"),
        slide_size=(
            int(_number(attributes, "level0_width", 0)),
            int(_number(attributes, "level0_height", 0)),
        ),
        encoder_name="",
        encoder_sha256="",
    )


def _without_batch(values: NDArray[Any]) -> NDArray[Any]:
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _number(attributes: Mapping[str, Any], name: str, default: float = math.nan) -> float:
    """Read a positive number; TRIDENT writes an unknown one as the text `None`."""
    try:
        value = float(np.asarray(attributes.get(name)).ravel()[0])
    except (TypeError, ValueError):
        return default
    return value if math.isfinite(value) and value > 0 else default


def _span_px(xy: NDArray[np.int32], attributes: Mapping[str, Any]) -> float:
    stated = _number(attributes, "patch_size_level0")
    if not math.isnan(stated):
        return stated
    of_level = _number(attributes, "patch_size") * _number(attributes, "downsample")
    return of_level if not math.isnan(of_level) else _usual_spacing(xy)


def _usual_spacing(xy: NDArray[np.int32]) -> float:
    """Return the most frequent distance to the next tile of the same row; NaN if no row has two."""
    if xy.ndim != 2 or xy.shape[1] != 2:
        return math.nan
    ordered = xy[np.lexsort((xy[:, 0], xy[:, 1]))].astype(np.int64)
    step = np.diff(ordered, axis=0)
    distances, counts = np.unique(step[(step[:, 1] == 0) & (step[:, 0] > 0), 0], return_counts=True)
    return float(distances[counts.argmax()]) if len(distances) else math.nan

"""Bags written by CLAM, TRIDENT and STAMP: HDF5 with features [N,D] or [1,N,D] and `coords` [N,2].

TRIDENT writes the tiling as attributes of `coords` (patch_size, patch_size_level0, level0_magnification,
target_magnification, level0_width, level0_height, name). CLAM writes patch_size, patch_level and downsample
into its coordinate files, and nothing into its feature files; there the tile's side is taken from the
spacing of the tiles. A magnification M is read as 10 / M µm per pixel, the convention of both tools.

STAMP calls the features `feats` and gives places in µm (attributes unit, tile_size_um, tile_size_px), but not
how many pixels that is on the slide. Its bag is taken to be of a scan with 1 µm per level-0 px: a place times
`slide_mpp` is the µm that STAMP wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags.bag import Bag, as_float16, check_rows, check_size, unreadable, whole_px
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import safe_id

_MICROMETRES_AT_1X = 10.0
_MICROMETRES = {"um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"}
_PIXELS = {"", "px", "pixel", "pixels"}
_MOST_SIDE_PX = 2**31
_MOST_CHUNK_BYTES = 1 << 30
"""HDF5 unpacks a whole chunk even for a single row."""


def read(path: Path) -> Bag:
    """Read a feature file of CLAM, TRIDENT or STAMP; what it does not state is NaN, 0 or empty in the bag."""
    try:
        with h5py.File(path, "r") as file:
            features, coords = _datasets(file, path.name)
            check_rows(path.name, _shape(features), _shape(coords))
            attributes = {**dict(file.attrs), **dict(features.attrs), **dict(coords.attrs)}
            if _unit(attributes) not in _MICROMETRES | _PIXELS:
                raise unreadable(path.name, "its coords are in a unit other than pixels and micrometres")
            xy = whole_px(path.name, _rows(coords, slice(None)))
            vectors = as_float16(path.name, _shape(features), partial(_rows, features))
        return _bag(path, vectors, xy, attributes)
    except InvalidInputError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise unreadable(path.name, "it is not an HDF5 file of features") from error


def _datasets(file: h5py.File, name: str) -> tuple[h5py.Dataset, h5py.Dataset]:
    stamp = "feats" if "feats" in file and "features" not in file else "features"
    missing = [part for part in (stamp, "coords") if not _is_own_array(file, part)]
    if missing:
        raise unreadable(name, f"it has no {' and no '.join(missing)}")
    found: tuple[h5py.Dataset, h5py.Dataset] = file[stamp], file["coords"]
    for dataset in found:
        check_size(name, dataset.shape)
        if dataset.dtype.kind not in "fiu":  # of text and other kinds one value can have gigabytes
            raise unreadable(name, "its features or coords are not numbers")
        if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > _MOST_CHUNK_BYTES:
            raise unreadable(name, "its chunks are too large to be unpacked")
    return found


def _is_own_array(file: h5py.File, part: str) -> bool:
    """Return whether the file itself holds an array: HDF5 can also refer to other files."""
    if not isinstance(file.get(part, getlink=True), h5py.HardLink):
        return False
    found = file[part]
    return isinstance(found, h5py.Dataset) and found.shape is not None and not _is_elsewhere(found)


def _is_elsewhere(dataset: h5py.Dataset) -> bool:
    return bool(dataset.external) or bool(dataset.is_virtual)


def _bag(
    path: Path, features: NDArray[np.float16], xy: NDArray[np.int32], attributes: Mapping[str, Any]
) -> Bag:
    micrometres = _is_in_micrometres(attributes)
    bag = Bag(
        slide_id=safe_id(_text(attributes, "name") or path.stem),
        features=features,
        xy=xy,
        span_px=_span_px(xy, attributes),
        tile_px=int(_number(attributes, "patch_size", _number(attributes, "tile_size_px", 0))),
        mpp=_tile_mpp(attributes),
        slide_mpp=1.0 if micrometres else _MICROMETRES_AT_1X / _number(attributes, "level0_magnification"),
        slide_size=(0, 0) if micrometres else _slide_size(attributes),
        encoder_name=_text(attributes, "encoder") or _text(attributes, "extractor"),
        encoder_sha256="",
    )
    if bag.known_size and _lies_outside(bag, bag.known_size):
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {path.name} cannot be used: some of its coords lie outside the slide's "
            f"{bag.slide_size[0]} × {bag.slide_size[1]} pixels.",
            hint="Check that both are of the same slide, in level-0 pixels, or extract the features again.",
        )
    return bag


def _lies_outside(bag: Bag, size: tuple[int, int]) -> bool:
    """Return whether a tile lies entirely outside the slide."""
    return bool(((bag.xy >= size) | (bag.xy + bag.span_px <= 0)).any())


def _is_batch(dataset: h5py.Dataset) -> bool:
    return len(dataset.shape) == 3 and dataset.shape[0] == 1


def _shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape without the batch dimension of 1 that some tools add."""
    return tuple(dataset.shape[1:] if _is_batch(dataset) else dataset.shape)


def _rows(dataset: h5py.Dataset, rows: slice) -> NDArray[Any]:
    return np.asarray(dataset[0, rows] if _is_batch(dataset) else dataset[rows])


def _text(attributes: Mapping[str, Any], name: str) -> str:
    """Read a text; HDF5 gives those of fixed length as bytes."""
    value = attributes.get(name, "")
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else ""


def _number(attributes: Mapping[str, Any], name: str, default: float = math.nan) -> float:
    """Read a positive number; TRIDENT writes an unknown one as the text `None`."""
    try:
        value = float(np.asarray(attributes.get(name)).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return default
    return value if math.isfinite(value) and 0 < value < _MOST_SIDE_PX else default


def _is_in_micrometres(attributes: Mapping[str, Any]) -> bool:
    return _unit(attributes) in _MICROMETRES or "tile_size_um" in attributes


def _unit(attributes: Mapping[str, Any]) -> str:
    return _text(attributes, "unit").strip().lower()


def _tile_side_um(attributes: Mapping[str, Any]) -> float:
    """Side of STAMP's tiles; its older files call it tile_size."""
    return _number(attributes, "tile_size_um", _number(attributes, "tile_size"))


def _tile_mpp(attributes: Mapping[str, Any]) -> float:
    if _is_in_micrometres(attributes):
        return _tile_side_um(attributes) / _number(attributes, "tile_size_px")
    return _MICROMETRES_AT_1X / _number(attributes, "target_magnification")


def _slide_size(attributes: Mapping[str, Any]) -> tuple[int, int]:
    width, height = (int(_number(attributes, f"level0_{side}", 0)) for side in ("width", "height"))
    return (width, height) if width and height else (0, 0)


def _span_px(xy: NDArray[np.int32], attributes: Mapping[str, Any]) -> float:
    if _is_in_micrometres(attributes):
        stated = _tile_side_um(attributes)
    else:
        of_level = _number(attributes, "patch_size") * _number(attributes, "downsample")
        stated = _number(attributes, "patch_size_level0", of_level)
    return _usual_spacing(xy) if math.isnan(stated) else stated


def _usual_spacing(xy: NDArray[np.int32]) -> float:
    """Return the most frequent distance to the next tile of the same row; NaN if no row has two."""
    if xy.ndim != 2 or xy.shape[1] != 2:
        return math.nan
    ordered = xy[np.lexsort((xy[:, 0], xy[:, 1]))].astype(np.int64)
    step = np.diff(ordered, axis=0)
    distances, counts = np.unique(step[(step[:, 1] == 0) & (step[:, 0] > 0), 0], return_counts=True)
    return float(distances[counts.argmax()]) if len(distances) else math.nan

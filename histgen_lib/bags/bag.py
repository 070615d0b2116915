"""The bag: all tile features of one slide, with their places and the encoder that made them.

The functions below the classes are for readers of bags: they refuse absurd sizes and values that no bag
can hold, in the same words for every file layout.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json

SCHEMA_VERSION = 1

_MOST_VALUES = 1 << 29
"""Features of one slide as float16 then fill 1 GiB: 350,000 tiles of 1536, more than any slide has."""
_MOST_TILES = 1 << 20
"""A slide of 200,000 px square in tiles of 224 px has 800,000."""
_BLOCK_VALUES = 1 << 24
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, eq=False)
class Bag:
    """All tile features of one slide. Row i of `features` belongs to the tile at `xy[i]`.

    `features`: float16[N,D]. `xy`: int32[N,2], top-left corners in level-0 px. `span_px`: side of a tile in
    level-0 px. `tile_px`, `mpp`: side (px) and scale (µm/px) of the tiles as the encoder saw them.
    `slide_mpp`: µm per level-0 px. `slide_size`: (width, height) in level-0 px. `encoder_name`,
    `encoder_sha256` (of its weights), `encoder_settings` (SHA-256 of what else decides a tile's feature:
    architecture, preprocessing, pooling, the tiles' side and scale): what made the features. Bags read from
    other tools' files may lack some of these: then numbers are NaN or 0, and texts empty. Raises
    `InvalidInputError("bag-invalid")` for arrays of other shapes, empty bags, features that are not finite,
    and sizes that are not positive.
    """

    slide_id: str
    features: NDArray[np.float16]
    xy: NDArray[np.int32]
    span_px: float
    tile_px: int
    mpp: float
    slide_mpp: float
    slide_size: tuple[int, int]
    encoder_name: str
    encoder_sha256: str
    encoder_settings: str = ""

    def __post_init__(self) -> None:
        wrong = _array_fault(self.features, self.xy) or _number_fault(self)
        if wrong:
            raise InvalidInputError(
                "bag-invalid",
                f"The bag of {self.slide_id} cannot be used: {wrong}.",
                hint="Extract the features of this slide again.",
            )

    def __len__(self) -> int:
        return len(self.features)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bag) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def has_places(self) -> bool:
        """Whether `xy` says where the tiles lie; a `.pt` file does not, and all its `xy` are 0."""
        return not math.isnan(self.span_px)

    @property
    def known_size(self) -> tuple[int, int] | None:
        """(width, height) of the slide in level-0 px, if the bag knows it and where its tiles lie."""
        return self.slide_size if self.has_places and min(self.slide_size) > 0 else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 (64 hexadecimal digits) over everything in the bag: equal bags have equal digests."""
        sha = hashlib.sha256(canonical_json(self.metadata()))
        sha.update(np.ascontiguousarray(self.xy, dtype="<i4").data)
        sha.update(np.ascontiguousarray(self.features, dtype="<f2").data)
        return sha.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Return everything but the arrays, as JSON values.

        An unknown number is None. Unknown settings are left out, so that bags of before they were recorded
        keep their digests.
        """
        settings = {"encoder_settings": self.encoder_settings} if self.encoder_settings else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "slide_id": self.slide_id,
            "tiles": len(self.features),
            "dim": int(self.features.shape[1]),
            "span_px": _known(self.span_px),
            "tile_px": int(self.tile_px),
            "mpp": _known(self.mpp),
            "slide_mpp": _known(self.slide_mpp),
            "slide_size": [int(side) for side in self.slide_size],
            "encoder_name": self.encoder_name,
            "encoder_sha256": self.encoder_sha256,
            **settings,
        }


@dataclass(frozen=True)
class Maker:
    """What made a bag: the tile encoder's name, the SHA-256 of its weights, its width D, its settings.

    What is unknown is ""; `settings` as `Bag.encoder_settings`.
    """

    name: str
    sha256: str
    width: int
    settings: str = ""


def maker_of(bag: Bag) -> Maker:
    """Return what made the bag."""
    return Maker(bag.encoder_name, bag.encoder_sha256, int(bag.features.shape[1]), bag.encoder_settings)


def unreadable(name: str, why: str) -> InvalidInputError:
    """Return the error for a bag called `name` that is damaged or has an unknown layout."""
    return InvalidInputError(
        "bag-unreadable",
        f"{name} cannot be read as a bag: {why}.",
        hint="The file is damaged or has another layout. Extract the features again, or copy it again.",
    )


def check_size(name: str, shape: Sequence[int]) -> None:
    """Refuse an array by the `shape` that its file declares, before it takes any memory.

    Raises InvalidInputError("bag-too-large").
    """
    if math.prod(shape) > _MOST_VALUES or math.prod(shape[:-1]) > _MOST_TILES:
        raise InvalidInputError(
            "bag-too-large",
            f"{name} declares an array of {_size(shape)} numbers: no slide's bag has so many.",
            hint="The file is damaged, or holds the tiles of many slides. Write one file for each slide.",
        )


def check_rows(name: str, features: Sequence[int], coords: Sequence[int]) -> None:
    """Refuse features and coords whose shapes do not match, before they are read: "bag-invalid"."""
    if features[:1] != coords[:1]:
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: its features are {_size(features)}, its coords {_size(coords)}.",
            hint="Extract the features of this slide again: every tile has one row in both.",
        )


def as_float16(
    name: str, shape: Sequence[int], read_rows: Callable[[slice], NDArray[Any]]
) -> NDArray[np.float16]:
    """Return features [N, …] of any real type as float16. NaN and infinity remain, for `Bag` to refuse.

    `read_rows` returns some rows, so that features of a wider type are never in memory as a whole. Raises
    InvalidInputError: "bag-invalid" for values beyond float16, "bag-unreadable" for what is not a number.
    """
    features, largest = np.zeros(shape, np.float16), 0.0
    tiles = shape[0] if shape else 0
    step = max(1, _BLOCK_VALUES * tiles // max(1, features.size))
    for start in range(0, tiles, step):
        rows = slice(start, start + step)
        block = read_rows(rows)
        if block.dtype.kind not in "fiu":
            raise unreadable(name, "its features are not numbers")
        largest = max(largest, float(np.max(np.abs(block), initial=0, where=np.isfinite(block))))
        if largest <= _LARGEST_HALF:
            features[rows] = block
    if largest > _LARGEST_HALF:
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: its features reach {largest:.6g}, and a bag holds numbers up to "
            f"{_LARGEST_HALF:.0f} (float16).",
            hint="Divide the features of all slides by the same number before they are written, "
            "or use the encoder's normalised output.",
        )
    return features


def whole_px(name: str, coords: NDArray[Any]) -> NDArray[np.int32]:
    """Return coordinates of any real type as int32, rounded.

    Raises InvalidInputError: "bag-invalid" for those that are not finite or beyond any slide,
    "bag-unreadable" for what is not a number.
    """
    if coords.dtype.kind not in "fiu":
        raise unreadable(name, "its coords are not numbers")
    rounded = np.rint(coords) if coords.dtype.kind == "f" else coords
    if not (np.abs(rounded.astype(np.float64)) < 2**31).all():  # False for NaN
        raise InvalidInputError(
            "bag-invalid",
            f"The bag {name} cannot be used: some of its coords are not finite numbers, or beyond any slide.",
            hint="Extract the features of this slide again.",
        )
    return np.ascontiguousarray(rounded.astype(np.int32))


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _array_fault(features: NDArray[np.float16], xy: NDArray[np.int32]) -> str:
    if features.ndim != 2 or features.dtype != np.float16:
        return f"features are {features.dtype}{list(features.shape)} instead of float16[N, D]"
    if xy.shape != (len(features), 2) or xy.dtype != np.int32:
        return f"places are {xy.dtype}{list(xy.shape)} instead of int32[{len(features)}, 2]"
    if features.size == 0:
        return "it has no features"
    return "" if np.isfinite(features).all() else "some features are not finite numbers"


def _number_fault(bag: Bag) -> str:
    """Name a number that cannot be: unknown ones are NaN, unknown sizes 0, and all others positive."""
    numbers = {
        "the tiles' side": bag.span_px,
        "the tiles' scale": bag.mpp,
        "the slide's scale": bag.slide_mpp,
    }
    wrong = [f"{what} is {value}" for what, value in numbers.items() if value <= 0 or math.isinf(value)]
    sizes = min(bag.tile_px, *bag.slide_size) < 0
    return wrong[0] if wrong else "a size is negative" if sizes else ""

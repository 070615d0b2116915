"""The bag: all tile features of one slide with the places they come from and what made them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Bag:
    """All tile features of one slide. Row i of `features` belongs to the tile at `xy[i]`.

    `features`: float16[N,D]. `xy`: int32[N,2], top-left corners in level-0 px. `span_px`: side of a tile in
    level-0 px. `tile_px`, `mpp`: side (px) and scale (µm/px) of the tiles as the encoder saw them.
    `slide_mpp`: µm per level-0 px. `slide_size`: (width, height) in level-0 px. `encoder_name`,
    `encoder_sha256`: what made the features. Bags read from other tools' files may lack some: then numbers
    are NaN or 0, texts empty. Raises `InvalidInputError("bag-invalid")` for arrays of other shapes, empty
    bags, features that are not finite, and sizes that are not positive.
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

    def __post_init__(self) -> None:
        wrong = _defect(self.features, self.xy) or _strange_facts(self)
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
        """(width, height) of the slide in level-0 px, where the bag knows it and where its tiles lie."""
        return self.slide_size if self.has_places and min(self.slide_size) > 0 else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 (64 hexadecimal digits) over everything in the bag: equal bags have equal digests."""
        sha = hashlib.sha256(canonical_json(self.metadata()))
        sha.update(np.ascontiguousarray(self.xy, dtype="<i4").data)
        sha.update(np.ascontiguousarray(self.features, dtype="<f2").data)
        return sha.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values (an unknown number is None)."""
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
        }


@dataclass(frozen=True)
class Maker:
    """What made a bag: the tile encoder's name and the SHA-256 of its weights ("" unknown), its width D."""

    name: str
    sha256: str
    width: int


def maker_of(bag: Bag) -> Maker:
    """Say what made the bag."""
    return Maker(bag.encoder_name, bag.encoder_sha256, int(bag.features.shape[1]))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _defect(features: NDArray[np.float16], xy: NDArray[np.int32]) -> str:
    if features.ndim != 2 or features.dtype != np.float16:
        return f"features are {features.dtype}{list(features.shape)} instead of float16[N, D]"
    if xy.shape != (len(features), 2) or xy.dtype != np.int32:
        return f"places are {xy.dtype}{list(xy.shape)} instead of int32[{len(features)}, 2]"
    if features.size == 0:
        return "it has no features"
    return "" if np.isfinite(features).all() else "some features are not finite numbers"


def _strange_facts(bag: Bag) -> str:
    """Say which fact cannot be: unknown numbers are NaN, unknown sizes 0, and all others positive."""
    numbers = {
        "the tiles' side": bag.span_px,
        "the tiles' scale": bag.mpp,
        "the slide's scale": bag.slide_mpp,
    }
    wrong = [f"{what} is {value}" for what, value in numbers.items() if value <= 0 or math.isinf(value)]
    sizes = min(bag.tile_px, *bag.slide_size) < 0
    return wrong[0] if wrong else "a size is negative" if sizes else ""

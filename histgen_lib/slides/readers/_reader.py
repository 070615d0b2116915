"""What a reader of slides is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides.settings import Level


class Reader(Protocol):
    """An open slide. Reading is safe from several threads.

    `vendor`: OpenSlide's name of the format. `properties`: the few that are needed, by OpenSlide's names;
    never a text that may name a patient. `levels`: as the file has them, finest first; `Level.number` is the
    index.
    """

    vendor: str
    properties: dict[str, str]
    levels: tuple[Level, ...]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read `width` × `height` px of `level` from corner (x, y) in level-0 px → uint8[height,width,3] RGB.

        Damaged tiles, and what lies outside the slide, are white. Raises
        `InvalidInputError("slide-read-failed")`.
        """

    def is_whole(self, x: int, y: int, level: int, width: int, height: int) -> bool:
        """Return whether no damage is known in a part of a level, once that part was read."""

    def checks(self, level: int) -> bool:
        """Return whether damage in a level is noticed."""

    def close(self) -> None:
        """Release the file. Reading afterwards raises `InvalidInputError("slide-read-failed")`."""

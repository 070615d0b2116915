"""Readers turn a slide's file into pixels. They are asked in order; the first that takes a slide reads it.

OpenSlide is the reference: it comes last, and reads or refuses whatever no other reader takes. A faster
reader takes a slide only if its pixels agree with the reference. To add a format or a faster path, add a
module here with a `Take` function, and an entry in `readers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides.settings import Level

if TYPE_CHECKING:
    from histgen_lib.slides.readers._checked import CheckedImage


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


Reference = Callable[[], "CheckedImage"]
"""Opens the slide by OpenSlide, once however often it is called. Raises as `open_reader`."""

Take = Callable[[Path, Reference], Reader | None]
"""Opens a slide's file, or returns None for one that this reader does not take.

A reader that uses the reference closes it when it is closed itself.
"""


def readers() -> tuple[Take, ...]:
    """Return all readers in the order in which they are asked, OpenSlide last. Loads their libraries."""
    from histgen_lib.slides.readers import _checked, _jpeg_tiff

    return (_jpeg_tiff.take, _checked.take)


def open_reader(file: Path, *, fast: bool = True) -> Reader:
    """Open a slide's file by the first reader that takes it; with `fast` False by OpenSlide.

    Raises `InvalidInputError`: `slide-format-unknown`, `slide-not-supported`, `slide-incomplete`,
    `slide-damaged`, `slide-unreadable`, `slide-read-failed`.
    """
    from histgen_lib.slides.readers._checked import open_checked

    reference = cache(partial(open_checked, file))
    try:
        for take in readers() if fast else readers()[-1:]:
            if (reader := take(file, reference)) is not None:
                return reader
    except BaseException:
        if reference.cache_info().currsize:
            reference().close()
        raise
    raise AssertionError("OpenSlide takes or refuses every slide")

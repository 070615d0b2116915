"""Readers turn a slide's file into pixels. They are asked in order; the first that takes a slide reads it.

OpenSlide is the reference: it comes last, and reads or refuses whatever no other reader takes. A faster
reader takes a slide only if its pixels agree with the reference. To add a format or a faster path, add a
module here with a `Take` function, and an entry in `readers`.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.slides.readers._reader import Reader

if TYPE_CHECKING:
    from histgen_lib.slides.readers._checked import Take

__all__ = ["Reader", "open_reader", "readers"]


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

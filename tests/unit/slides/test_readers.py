"""Readers are asked in order, the first that takes a slide reads it, and a new one is a single entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import Level, open_slide, readers
from histgen_lib.slides.readers import _checked, open_reader


class Stripes:
    """A format that OpenSlide does not know: white and black columns."""

    vendor = "stripes"
    levels = (Level((512, 512), 1.0),)

    def __init__(self) -> None:
        self.properties = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
        self.closed = False

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 255, np.uint8)

    def is_whole(self, x: int, y: int, level: int, width: int, height: int) -> bool:
        return True

    def checks(self, level: int) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def put_first(monkeypatch, take) -> None:
    entries = readers.readers()
    monkeypatch.setattr(readers, "readers", lambda: (take, *entries))


def test_a_format_that_openslide_does_not_know_is_one_more_entry(tmp_path, monkeypatch):
    (tmp_path / "a.stripes").write_bytes(b"STRIPES")

    def take(file: Path, reference: _checked.Reference) -> readers.Reader | None:
        return Stripes() if file.read_bytes() == b"STRIPES" else None

    put_first(monkeypatch, take)
    with open_slide(tmp_path / "a.stripes") as slide:
        assert (slide.vendor, slide.mpp, slide.size) == ("stripes", 0.5, (512, 512))
        assert slide.read_region(0, 0, 0, 8, 8).shape == (8, 8, 3)
        reader = slide._reader
    assert isinstance(reader, Stripes)
    assert reader.closed


def test_a_reader_that_does_not_take_a_slide_leaves_it_to_the_next(slide_file, monkeypatch):
    put_first(monkeypatch, lambda file, reference: None)
    with open_slide(slide_file) as slide:
        assert slide.vendor == "generic-tiff"


def test_openslide_is_asked_last_and_takes_all_that_it_can_read(slide_file):
    assert readers.readers()[-1] is _checked.take
    reader = open_reader(slide_file, fast=False)
    assert type(reader).__name__ == "CheckedImage"
    reader.close()


def test_the_reference_is_opened_once_and_closed_if_a_reader_fails(slide_file, monkeypatch):
    opened = []
    real = _checked.open_checked
    monkeypatch.setattr(_checked, "open_checked", lambda file: opened.append(real(file)) or opened[-1])

    def take(file: Path, reference: _checked.Reference) -> None:
        assert reference() is reference()
        raise ValueError("a fault of this reader")

    put_first(monkeypatch, take)
    with pytest.raises(ValueError, match="this reader"):
        open_reader(slide_file)
    (image,) = opened
    with pytest.raises(InvalidInputError):
        image.read(0, 0, 0, 8, 8)

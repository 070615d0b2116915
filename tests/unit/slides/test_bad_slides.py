"""Every bad input ends in an error with a code and a remedy; OpenSlide's own errors never escape."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from tiff_pyramid import halved, write_pyramid

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, open_slide, plan_grid


def refusal(path, **kwargs) -> InvalidInputError:
    """Open the slide and read all its tiles; return the error that must be raised."""
    with pytest.raises(InvalidInputError) as caught, open_slide(path, **kwargs) as slide:
        for _ in slide.read_tiles(plan_grid(slide, TilingSettings())):
            pass
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_missing_path(tmp_path):
    assert refusal(tmp_path / "no.svs").code == "slide-missing"


def test_an_empty_file(tmp_path):
    (tmp_path / "a.svs").touch()
    assert refusal(tmp_path / "a.svs").code == "slide-empty"


@pytest.mark.parametrize(
    "content", [b"hello " * 99, b"{}", b"II", b"II*\0", b"\0" * 5000, b"\xff\xd8\xff\xe0" * 9]
)
def test_something_else_named_svs(tmp_path, content):
    (tmp_path / "a.svs").write_bytes(content)
    assert refusal(tmp_path / "a.svs").code == "slide-format-unknown"


def test_a_picture_that_is_not_a_slide(tmp_path):
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png").code == "slide-format-unknown"


def test_a_folder_of_other_things(tmp_path, slide_file):
    shutil.copy(slide_file, tmp_path / "a.tif")
    (tmp_path / "inner").mkdir()
    assert refusal(tmp_path).code == "slide-is-folder"


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_reported_as_damaged(tmp_path, slide_file, kept):
    data = slide_file.read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * kept)])
    assert refusal(tmp_path / "a.tif").code == "slide-damaged"


def test_a_truncated_bigtiff_is_reported_as_damaged(tmp_path):
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 5000) + bytes(100))
    assert refusal(tmp_path / "a.tif").code == "slide-damaged"


def test_an_unsupported_compression_is_not_damage(tmp_path, slide_file):
    """JPEG 2000 in a plain TIFF: copying it again changes nothing."""
    jpeg, jpeg_2000 = (struct.pack("<HHIH", 259, 3, 1, value) for value in (7, 34712))
    data = slide_file.read_bytes()
    assert jpeg in data
    (tmp_path / "a.tif").write_bytes(data.replace(jpeg, jpeg_2000))
    found = refusal(tmp_path / "a.tif")
    assert found.code == "slide-not-supported"
    assert "34712" in found.message


def test_damaged_pixels_after_a_sound_directory(tmp_path, slide_file):
    data = bytearray(slide_file.read_bytes())
    middle = slice(len(data) // 5, len(data) // 2)
    data[middle] = bytes(middle.stop - middle.start)
    (tmp_path / "a.tif").write_bytes(data)
    assert refusal(tmp_path / "a.tif", mpp=0.5).code == "slide-read-failed"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")]
)
def test_a_file_that_may_not_be_read(monkeypatch, slide_file, error):
    """Root may read everything, so the system's refusal is simulated."""

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("histgen_lib.opening._opened", refuse)
    found = refusal(slide_file)
    assert found.code == "slide-unreadable"
    assert error.strerror in found.message


@pytest.mark.parametrize("side", [1, 31])
def test_a_picture_of_a_few_pixels(tmp_path, side):
    write_pyramid(tmp_path / "a.tif", [np.full((side, side, 3), 200, np.uint8)])
    assert refusal(tmp_path / "a.tif").code == "slide-too-small"


@pytest.mark.parametrize("value", [0, 128, 243, 255])
def test_a_slide_without_tissue(make_slide, value):
    blank = np.full((1500, 1200, 3), value, np.uint8)
    assert refusal(make_slide("a.tif", [blank, halved(blank)])).code == "slide-no-tissue"


def test_a_huge_slide_without_small_levels(monkeypatch, make_slide, picture):
    monkeypatch.setattr("histgen_lib.slides.slide.MOST_FLAT_PX", 10**6)
    assert refusal(make_slide("a.tif", [picture])).code == "slide-no-pyramid"


def test_a_small_slide_without_small_levels_is_fine(make_slide, picture):
    with open_slide(make_slide("a.tif", [picture], mpp=0.25)) as slide:
        assert len(plan_grid(slide, TilingSettings())) > 4


def test_a_file_that_loses_its_end_while_it_is_read(tmp_path, slide_file):
    copy = tmp_path / "a.tif"
    shutil.copy(slide_file, copy)
    with open_slide(copy) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.25))
        os.truncate(copy, 3000)
        for _attempt in range(2):  # OpenSlide repeats its first error forever: the second must be as clear
            with pytest.raises(InvalidInputError) as caught:
                list(slide.read_tiles(grid))
            assert caught.value.code == "slide-read-failed"


def test_reading_after_closing(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings())
    with pytest.raises(InvalidInputError) as caught:
        next(slide.read_tiles(grid))
    assert caught.value.code == "slide-read-failed"


def test_a_file_that_vanishes_is_still_read_or_refused(tmp_path, slide_file):
    """An open file outlives its name on most systems; where it does not, the refusal is clear."""
    copy = tmp_path / "a.tif"
    shutil.copy(slide_file, copy)
    with open_slide(copy) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.25))
        copy.unlink()
        try:
            found = sum(map(len, slide.read_tiles(grid, threads=4)))
        except InvalidInputError as error:
            found = error.code
    assert found in {len(grid), "slide-read-failed"}

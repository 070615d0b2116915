"""DICOM whole-slide series: by folder or by file, one identity, no label and no patient."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from dicom_series import write_series
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, open_slide, plan_grid


@pytest.fixture(scope="module")
def series(tmp_path_factory, picture):
    label = np.full((200, 200, 3), (255, 0, 255), np.uint8)
    folder = tmp_path_factory.mktemp("dicom") / "case"
    return write_series(folder, [picture, halved(picture), halved(picture, 2)], mpp=0.25, label=label)


def test_a_folder_is_opened_as_its_series(series, picture):
    with open_slide(series) as slide:
        assert (slide.slide_id, slide.vendor, slide.scanner) == ("case", "dicom", "Testscan T1")
        assert slide.size == (2300, 2048)
        assert len(slide.levels) == 3
        assert (slide.mpp, slide.mpp_source) == (0.25, "file")
        grid = plan_grid(slide, TilingSettings())
        tiles = np.concatenate([batch.pixels for batch in slide.read_tiles(grid)])
    x, y = grid.xy[0]
    expected = halved(picture)[y // 2 : y // 2 + 256, x // 2 : x // 2 + 256]
    assert np.abs(tiles[0].astype(int) - expected).mean() < 4


def test_the_folder_and_any_file_in_it_are_the_same_slide(series):
    with open_slide(series) as whole, open_slide(series / "1.2.3.4-1.dcm") as one:
        assert whole.size == one.size
        assert whole.content_id == one.content_id


def test_the_identity_covers_every_file(tmp_path, series):
    copy = tmp_path / "renamed"
    shutil.copytree(series, copy)
    with open_slide(series) as one, open_slide(copy) as two:
        assert one.content_id == two.content_id
    changed = copy / "1.2.3.4-2.dcm"
    data = bytearray(changed.read_bytes())
    data[-1000] ^= 1
    changed.write_bytes(data)
    with open_slide(series) as one, open_slide(copy) as two:
        assert one.content_id != two.content_id


def test_a_folder_with_two_slides_is_refused(tmp_path, series, picture):
    both = tmp_path / "both"
    shutil.copytree(series, both)
    write_series(both, [picture], series="1.2.3.45")
    with pytest.raises(InvalidInputError) as caught:
        open_slide(both)
    assert caught.value.code == "slide-is-folder"
    assert "several" in caught.value.message


def test_another_series_beside_it_does_not_change_its_identity(tmp_path, series, picture):
    both = tmp_path / "both"
    shutil.copytree(series, both)
    write_series(both, [picture], series="1.2.3.45")
    with open_slide(series) as one, open_slide(both / "1.2.3.4-0.dcm") as two:
        assert one.content_id == two.content_id


@pytest.mark.parametrize("kept", [0.002, 0.01, 0.3, 0.9])
def test_truncated_instances_are_refused(tmp_path, series, kept):
    copy = tmp_path / "cut"
    shutil.copytree(series, copy)
    for part in copy.iterdir():
        data = part.read_bytes()
        part.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InvalidInputError) as caught, open_slide(copy, mpp=0.25) as slide:
        list(slide.read_tiles(plan_grid(slide, TilingSettings(mpp=0.25))))
    assert caught.value.code in {
        "slide-damaged",
        "slide-format-unknown",
        "slide-is-folder",
        "slide-read-failed",
    }


def test_the_patient_is_dropped_at_once(series):
    with open_slide(series) as slide:
        assert "Doe" not in repr(vars(slide)) + repr(vars(slide._reader)["properties"])

"""The frames of a DICOM slide are found however its file states where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import write_series
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import ExplicitVRLittleEndian
from stained_picture import stained

from histgen_lib.slides.readers._dicom_frames import dicom_frames
from histgen_lib.slides.settings import Level

SIZE, TILE_PX = (700, 500), 128
LEVELS = [Level(SIZE, 1.0)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_series(tmp_path, [stained(SIZE[1], SIZE[0])], tile_px=TILE_PX)
    return next(tmp_path.glob("*.dcm"))


def frames_of(data: Dataset) -> list[bytes]:
    return list(generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))


def without_table(data: Dataset) -> None:
    data.PixelData = encapsulate(frames_of(data), has_bot=False)


def in_fragments(data: Dataset) -> None:
    data.PixelData = encapsulate(frames_of(data), fragments_per_frame=3)


def with_an_extended_table(data: Dataset) -> None:
    frames = frames_of(data)
    data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = encapsulate_extended(frames)


def with_open_sequences(data: Dataset) -> None:
    for element in data:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True


def sparse(data: Dataset) -> None:
    """Store the frames from the last to the first, each with its place."""
    frames = frames_of(data)
    across = -(-SIZE[0] // TILE_PX)
    places = []
    for number in reversed(range(len(frames))):
        place = Dataset()
        place.ColumnPositionInTotalImagePixelMatrix = number % across * TILE_PX + 1
        place.RowPositionInTotalImagePixelMatrix = number // across * TILE_PX + 1
        frame = Dataset()
        frame.PlanePositionSlideSequence = [place]
        places.append(frame)
    data.DimensionOrganizationType = "TILED_SPARSE"
    data.PerFrameFunctionalGroupsSequence = places
    data.PixelData = encapsulate(frames[::-1])


@pytest.mark.parametrize(
    "change",
    [lambda data: None, without_table, in_fragments, with_an_extended_table, with_open_sequences, sparse],
)
def test_each_frame_is_found_in_its_cell_and_is_whole(file: Path, change: Callable[[Dataset], None]) -> None:
    data = pydicom.dcmread(file)
    expected = frames_of(data)
    change(data)
    data.save_as(file)
    stored = file.read_bytes()
    units = dicom_frames([file], LEVELS)[0]
    assert units.cells.shape == (4, 6)
    for cell, number in np.ndenumerate(units.cells):
        start, count = int(units.offsets[number]), int(units.byte_counts[number])
        frame = b"".join(generate_fragments(stored[start : start + count]))
        assert frame.rstrip(b"\0") == expected[cell[0] * 6 + cell[1]].rstrip(b"\0")
        assert units.is_whole(stored[start : start + count])
        assert not units.is_whole(stored[start : start + count // 2])


def generate_fragments(items: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(items):
        length = int.from_bytes(items[place + 4 : place + 8], "little")
        found.append(items[place + 8 : place + 8 + length])
        place += 8 + length
    return found


def test_a_frame_whose_head_is_lost_does_not_hide_others(file: Path) -> None:
    units = dicom_frames([file], LEVELS)[0]
    stored = bytearray(file.read_bytes())
    lost = int(units.offsets[9])
    stored[lost : lost + 8] = bytes(8)
    file.write_bytes(stored)
    again = dicom_frames([file], LEVELS)[0]
    spans = zip(again.offsets.tolist(), again.byte_counts.tolist(), strict=True)
    whole = [again.is_whole(bytes(stored[start : start + count])) for start, count in spans]
    assert whole == [number != 9 for number in range(24)]


def uncompressed(data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels: NDArray[np.uint8] = np.zeros((int(data.NumberOfFrames), TILE_PX, TILE_PX, 3), np.uint8)
    data.PixelData = pixels.tobytes()
    data["PixelData"].is_undefined_length = False


def of_another_size(data: Dataset) -> None:
    data.TotalPixelMatrixColumns = SIZE[0] + 1


@pytest.mark.parametrize("change", [uncompressed, of_another_size])
def test_what_cannot_be_checked_is_left_to_openslide(file: Path, change: Callable[[Dataset], None]) -> None:
    data = pydicom.dcmread(file)
    change(data)
    data.save_as(file)
    assert dicom_frames([file], LEVELS) == {}


def test_a_truncated_or_missing_file_is_left_to_openslide(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 100, 140, 500):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert dicom_frames([tmp_path / "cut", tmp_path / "none"], LEVELS) == {}

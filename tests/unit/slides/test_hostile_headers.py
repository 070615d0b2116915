"""What a header declares is judged before a reader allocates memory for it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_series
from hostile_headers import (
    BEYOND,
    HOSTILE_HEADERS,
    LONG,
    LONG8,
    SPARSE,
    big_tiff,
    classic_ndpi,
    jpeg_of,
    tags,
)
from odd_files import RGB
from PIL import Image
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import open_slide, source
from histgen_lib.slides.headers import check_headers
from histgen_lib.slides.readers import _openslide
from histgen_lib.slides.readers._stored_tiles import (
    decode_jpeg,
    is_whole_deflate,
    is_whole_jpeg,
    is_whole_jpeg_2000,
)


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_header_that_declares_too_much_is_refused_before_a_reader_sees_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many of these take gigabytes, end the process or hold it for minutes, if OpenSlide opens them."""
    monkeypatch.setattr(_openslide, "_open", lambda path: pytest.fail("OpenSlide was called"))
    with pytest.raises(InvalidInputError) as caught:
        open_slide(HOSTILE_HEADERS[name](tmp_path), mpp=0.5)
    assert caught.value.code == "slide-header-too-large"
    assert caught.value.hint


def test_a_large_slide_is_not_refused(tmp_path: Path) -> None:
    """A level 0 of 180,000 × 180,000 px, which need not be read to open the slide."""
    with open_slide(big_tiff(tags(179_968, 256), tags(1024, 256), size=1 << 24)(tmp_path), mpp=0.25) as slide:
        assert slide.levels[0].size == (179_968, 179_968)


@pytest.mark.parametrize(
    ("place", "directory"),
    [(SPARSE, 1 << 20), (SPARSE, BEYOND), (SPARSE, BEYOND + (4 << 30)), (BEYOND, BEYOND + (1 << 20))],
    ids=["small", "its directory beyond 4 GiB", "beyond 8 GiB", "its picture beyond 4 GiB"],
)
def test_an_ndpi_as_scanners_write_it_is_opened(place: int, directory: int, tmp_path: Path) -> None:
    """Its links and values have 64 bits, although it claims to be a classic TIFF."""
    written = io.BytesIO()
    Image.fromarray(halved(halved(RGB))).resize((512, 512)).save(written, "JPEG")
    make = classic_ndpi(written.getvalue(), 512, 512, place=place, directory=directory)
    with open_slide(make(tmp_path), mpp=0.5) as slide:
        assert slide.vendor == "hamamatsu"
        assert slide.size == (512, 512)
        assert slide.read_region(0, 0, 0, 64, 64).shape == (64, 64, 3)


def test_a_large_ndpi_is_judged_by_its_picture_wherever_that_is(tmp_path: Path) -> None:
    """It has 40,000 × 40,000 px in parts; at any other offset no parts would be found."""
    picture = jpeg_of(40_000, 40_000, restart=64)
    check_headers(classic_ndpi(picture, 40_000, 40_000, place=BEYOND, directory=BEYOND + 8192)(tmp_path))


def test_an_offset_beyond_any_file_is_left_to_the_reader(tmp_path: Path) -> None:
    check_headers(big_tiff([(256, LONG, 1, 9), (273, LONG8, 1, 1 << 63), (65420, LONG, 1, 1)])(tmp_path))


def test_a_dicom_slide_with_nested_sequences_as_scanners_write_them_is_opened(tmp_path: Path) -> None:
    write_series(tmp_path, [RGB, halved(RGB)])
    with open_slide(tmp_path / "1.2.3.4-0.dcm", mpp=0.5) as slide:
        assert slide.size == (512, 512)


def test_compressed_tiles_are_not_decompressed_beyond_the_size_of_a_tile() -> None:
    """A gigabyte of zeros, a JPEG of 4,000 megapixels, and JPEG 2000 of 60,000 parts or 16,000 components."""
    bomb = zlib.compress(bytes(1 << 20) * 64)
    assert not is_whole_deflate(bomb, 1000)
    for fill in (0, 1):
        with pytest.raises(ValueError, match="larger than any tile"):
            decode_jpeg(jpeg_of(65_000, 65_000, fill=fill))
    assert not is_whole_jpeg(jpeg_of(65_000, 65_000))
    for size, part, components in (
        ((256, 256), 1, 3),
        ((256, 256), 256, 16_000),
        ((60_000, 60_000), 60_000, 3),
    ):
        head = struct.pack(">HHHH8IH", 0xFF4F, 0xFF51, 49, 0, *size, 0, 0, part, part, 0, 0, components)
        assert not is_whole_jpeg_2000(head + b"\xff\x90\0\x0a\0\0\0\0\0\0\0\x01\xff\xd9")
    assert is_whole_deflate(zlib.compress(bytes(1000)), 1000)


def test_deflate_of_more_than_a_tile_takes_no_more_memory_than_a_tile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def decompress(self, data: bytes, most: int = 0) -> bytes:
            limits.append(most)
            return real().decompress(data, most)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert is_whole_deflate(zlib.compress(np.zeros(1000, np.uint8).tobytes()), 1000)
    assert limits == [1001]


def test_a_giant_label_costs_nothing(tmp_path: Path) -> None:
    """Labels and overviews are never decoded, whatever they declare."""
    label = [tag for tag in tags(60_000) if tag[0] < 322]
    strips = [(273, LONG8, 1, SPARSE), (278, LONG, 1, 60_000), (279, LONG8, 1, 3 << 30)]
    path = big_tiff(tags(), tags(1024), sorted(label + strips))(tmp_path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.levels[0].size == (4096, 4096)


def test_looking_through_a_folder_of_dicom_files_holds_one_head_at_a_time(tmp_path: Path) -> None:
    """Ten thousand of them would have 2.6 GB; the gateway does this in its own process."""
    write_series(tmp_path, [RGB, halved(RGB)])
    for number in range(400):
        with (tmp_path / f"other{number}.dcm").open("wb") as file:
            file.write(bytes(128) + b"DICM")
            file.truncate(1 << 20)
    tracemalloc.start()
    try:
        assert source.locate(tmp_path).name == "1.2.3.4-0.dcm"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()

"""Damaged pixels never silently become features, whatever the reader; damage elsewhere refuses nothing."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import dicom_series
import numpy as np
import pytest
import tiff_pyramid
import tifffile
from dicom_series import write_series
from makers_tiffs import write_philips, write_ventana
from numpy.typing import NDArray
from PIL import Image
from stained_picture import stained
from tiff_pyramid import halved, write_pyramid

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, assess_quality, open_slide, plan_grid
from histgen_lib.slides.quality import DAMAGE
from histgen_lib.slides.readers._stored_tiles import is_whole_deflate, is_whole_jpeg, is_whole_jpeg_2000

MPP, TILE_PX = 1.0, 128
TILING = TilingSettings(mpp=MPP, tile_px=TILE_PX // 2)
START, SCAN, END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """Return 1792 × 2048 px of glass with one piece of tissue."""
    return stained(1792, 2048)


@dataclass(frozen=True)
class Read:
    """What was read from a slide: its tiles by place, and its quality."""

    tiles: dict[tuple[int, int], NDArray[np.uint8]]
    left_out: int
    flags: tuple[str, ...]
    checked: bool


def read(path: Path, *, fast: bool = True) -> Read:
    with open_slide(path, mpp=MPP, fast=fast) as slide:
        grid = plan_grid(slide, TILING)
        quality = assess_quality(slide, grid)
        batches = list(slide.read_tiles(grid))
    tiles = {
        tuple(place): tile
        for batch in batches
        for place, tile in zip(batch.xy.tolist(), batch.pixels, strict=True)
    }
    if left_out := len(grid) - len(tiles):
        places = np.array(list(tiles), np.int32).reshape(-1, 2)
        quality = quality.without(grid.only(grid.rows_at(places)), left_out)
    return Read(tiles, left_out, quality.flags, DAMAGE in quality.checked)


def differ(found: Read, sound: Read) -> int:
    """Return the largest difference in grey values between tiles of one place."""
    return max(
        int(np.abs(tile.astype(int) - sound.tiles[place]).max())
        for place, tile in found.tiles.items()
        if place in sound.tiles
    )


def levels_of(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [picture, halved(picture), halved(picture, 2)]


WRITERS: dict[str, Callable[[Path, NDArray[np.uint8]], Path]] = {
    "fast": lambda to, p: write_pyramid(to / "a.tif", levels_of(p), mpp=MPP, tile_px=TILE_PX),
    "slow": lambda to, p: write_pyramid(to / "slow.tif", levels_of(p), mpp=MPP, tile_px=TILE_PX),
    "dicom": lambda to, p: write_series(to / "series", levels_of(p), mpp=MPP, tile_px=TILE_PX),
    "philips": lambda to, p: write_philips(to / "a.tiff", levels_of(p), mpp=MPP, tile_px=TILE_PX),
    "ventana": lambda to, p: write_ventana(to / "a.bif", p, mpp=MPP, tile_px=TILE_PX),
    "ventana, overlapping": lambda to, p: write_ventana(
        to / "b.bif", p, mpp=MPP, tile_px=TILE_PX, overlap_px=12
    ),
}


@pytest.fixture(scope="module", params=list(WRITERS))
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, picture: NDArray[np.uint8]
) -> tuple[Path, bool, Read]:
    """Write a sound slide for each reader; return whether the fast one may be used, and what is read."""
    path, fast = WRITERS[request.param](tmp_path_factory.mktemp("whole"), picture), request.param != "slow"
    return path, fast, read(path, fast=fast)


def main_file(path: Path) -> Path:
    return path / "1.2.3.4-0.dcm" if path.is_dir() else path


def copy_of(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    return Path(shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy))


def jpegs(data: bytes) -> list[tuple[int, int]]:
    """Find start and end of each JPEG in a file's bytes."""
    found, place = [], data.find(START)
    while place >= 0:
        end = data.index(END, data.index(SCAN, place)) + 2
        found.append((place, end))
        place = data.find(START, end)
    return found


def middle_of(file: Path, picture: NDArray[np.uint8]) -> tuple[int, int]:
    """Find the compressed tile in the middle of level 0: tissue."""
    if file.suffix == ".dcm":
        rows, columns = (-(-side // TILE_PX) for side in picture.shape[:2])
        return jpegs(file.read_bytes())[rows // 2 * columns + columns // 2]
    with tifffile.TiffFile(file) as tiff:
        page = max(tiff.pages, key=lambda page: page.imagewidth)
        rows, columns = (-(-side // TILE_PX) for side in page.shape[:2])
        number = rows // 2 * columns + columns // 2
        return page.dataoffsets[number], page.dataoffsets[number] + page.databytecounts[number]


def zeros(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(512) + jpeg[middle + 512 :]


def mostly_zeros(jpeg: bytes) -> bytes:
    start = jpeg.index(SCAN) + 40
    return jpeg[:start] + bytes(len(jpeg) - start - 2) + END


def noise(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    other = np.random.default_rng(3).integers(1, 255, 600, np.uint8).tobytes()
    return jpeg[:middle] + other + jpeg[middle + 600 :]


def an_early_end(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + END * ((len(jpeg) - middle) // 2) + jpeg[len(jpeg) - (len(jpeg) - middle) % 2 :]


def no_start(jpeg: bytes) -> bytes:
    return b"\xff\x11" + jpeg[2:]


def spoil(path: Path, spoiling: Callable[[bytes], bytes], spans: list[tuple[int, int]]) -> None:
    data = bytearray(path.read_bytes())
    for start, end in spans:
        data[start:end] = spoiling(bytes(data[start:end]))
    path.write_bytes(data)


@pytest.mark.parametrize("spoiling", [mostly_zeros, no_start])
def test_a_damaged_tile_is_left_out_and_reported_and_all_others_are_unchanged(
    whole: tuple[Path, bool, Read],
    tmp_path: Path,
    picture: NDArray[np.uint8],
    spoiling: Callable[[bytes], bytes],
) -> None:
    path, fast, sound = whole
    copy = copy_of(path, tmp_path)
    file = main_file(copy)
    spoil(file, spoiling, [middle_of(file, picture)])
    assert file.stat().st_size == main_file(path).stat().st_size

    found = read(copy, fast=fast)
    assert sound.flags == ()
    assert found.flags == ("damaged",)
    assert found.left_out >= 1
    assert 4 <= len(sound.tiles.keys() - found.tiles.keys()) <= 9  # our tiles that show one of the file's
    assert found.tiles.keys() < sound.tiles.keys()
    assert differ(found, sound) <= 1  # OpenSlide reads pieces instead of the whole


@pytest.mark.parametrize("spoiling", [zeros, mostly_zeros, noise, an_early_end, no_start])
def test_every_kind_of_damage_is_noticed(
    picture: NDArray[np.uint8], spoiling: Callable[[bytes], bytes]
) -> None:
    tiles = list(tiff_pyramid.jpeg_tiles(picture, 512, 92))
    assert all(map(is_whole_jpeg, tiles))
    assert not any(is_whole_jpeg(spoiling(tile)) for tile in tiles)


@pytest.fixture(scope="module")
def slide_at(tmp_path_factory: pytest.TempPathFactory, picture: NDArray[np.uint8]) -> Path:
    return WRITERS["fast"](tmp_path_factory.mktemp("levels"), picture)


def by_level(data: bytes, picture: NDArray[np.uint8]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Find the JPEGs of level 0, and those of the others."""
    count = -(-picture.shape[0] // TILE_PX) * -(-picture.shape[1] // TILE_PX)
    return jpegs(data)[:count], jpegs(data)[count:]


@pytest.mark.parametrize("fast", [True, False])
def test_a_slide_with_too_much_damage_is_refused(
    tmp_path: Path, slide_at: Path, picture: NDArray[np.uint8], fast: bool
) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(slide_at.read_bytes())
    level_0, _ = by_level(slide_at.read_bytes(), picture)
    spoil(file, mostly_zeros, sorted(level_0, key=lambda span: span[0] - span[1])[:12])
    with pytest.raises(InvalidInputError) as caught:
        read(file, fast=fast)
    assert caught.value.code == "slide-read-failed"
    assert "damaged" in caught.value.message


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("spoiling", [mostly_zeros, no_start])
def test_damage_to_a_level_that_a_finer_one_can_replace_changes_nothing(
    tmp_path: Path,
    slide_at: Path,
    picture: NDArray[np.uint8],
    spoiling: Callable[[bytes], bytes],
    fast: bool,
) -> None:
    (tmp_path / "a.tif").write_bytes(slide_at.read_bytes())
    _, coarser = by_level(slide_at.read_bytes(), picture)
    spoil(tmp_path / "a.tif", spoiling, coarser[::2])
    sound, found = (read(path, fast=fast) for path in (slide_at, tmp_path / "a.tif"))
    assert found.flags == ()
    assert len(found.tiles.keys() ^ sound.tiles.keys()) <= 2  # at the tissue's edge
    assert differ(found, sound) == 0


def with_padding(jpeg: bytes) -> bytes:
    return jpeg.removesuffix(END) + bytes(20) + END


def with_more_behind(jpeg: bytes) -> bytes:
    return jpeg + b"maker's" * 30


@pytest.mark.parametrize("habit", [with_padding, with_more_behind])
@pytest.mark.parametrize("reader", ["fast", "slow", "dicom"])
def test_quirks_of_writers_that_cost_no_pixel_are_not_damage(
    tmp_path: Path,
    picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
    habit: Callable[[bytes], bytes],
) -> None:
    for folder in ("sound", "odd"):
        (tmp_path / folder).mkdir()
    sound = read(WRITERS[reader](tmp_path / "sound", picture), fast=reader != "slow")
    tiles = tiff_pyramid.jpeg_tiles
    for module in (tiff_pyramid, dicom_series):
        monkeypatch.setattr(module, "jpeg_tiles", lambda *of: map(habit, tiles(*of)))
    found = read(WRITERS[reader](tmp_path / "odd", picture), fast=reader != "slow")
    assert found.flags == ()
    assert found.tiles.keys() == sound.tiles.keys()
    assert all(
        np.abs(tile.astype(int) - sound.tiles[place]).max() <= 4 for place, tile in found.tiles.items()
    )


def test_a_file_whose_tiles_cannot_be_judged_says_so(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(picture, tile=(TILE_PX, TILE_PX), photometric="rgb")
        file.write(halved(picture), tile=(TILE_PX, TILE_PX), photometric="rgb", subfiletype=1)
    found = read(path)
    assert (found.flags, found.checked) == ((), False)


def test_deflated_tiles_are_checked(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path, picture = tmp_path / "a.tif", picture[::2, ::2].copy()
    with tifffile.TiffWriter(path) as file:
        file.write(picture, tile=(64, 64), photometric="rgb", compression="zlib")
    assert "damaged" not in read(path).flags
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    middle = len(offsets) // 2 + 8
    spoil(path, noise, [(offsets[middle], offsets[middle] + counts[middle])])
    found = read(path)
    assert "damaged" in found.flags
    assert found.left_out == 1


@pytest.mark.parametrize("fast", [True, False])
def test_a_damaged_region_is_refused_never_shown(
    tmp_path: Path, slide_at: Path, picture: NDArray[np.uint8], fast: bool
) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(slide_at.read_bytes())
    spoil(file, zeros, [middle_of(slide_at, picture)])
    with open_slide(file, mpp=MPP, fast=fast) as slide, pytest.raises(InvalidInputError) as caught:
        slide.read_region(0, 0, 0, *slide.size)
    assert caught.value.code == "slide-read-failed"


def test_cases_that_were_once_answered_wrongly_are_answered_right(shared_dir: Path) -> None:
    cases = shared_dir / "cases"
    with pytest.raises(InvalidInputError) as caught:
        read(cases / "damaged-tile-silent" / "damaged")
    assert caught.value.code == "slide-read-failed"  # a quarter of it
    with open_slide(cases / "unused-tile-broken" / "level1-tile0.tif") as slide:
        grid = plan_grid(slide, TilingSettings())
        assert sum(map(len, slide.read_tiles(grid))) == len(grid) > 0
        assert "damaged" not in assess_quality(slide, grid).flags


def test_flat_tiles_with_tables_of_their_own_are_not_damage() -> None:
    """Their data is zeros."""
    for grey in (0, 128, 255):
        flat = np.full((512, 512, 3), grey, np.uint8)
        for how in ([cv2.IMWRITE_JPEG_OPTIMIZE, 1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
            jpeg = cv2.imencode(".jpg", flat, how)[1].tobytes()
            assert is_whole_jpeg(jpeg)


def test_jpeg_2000_without_its_end_or_with_a_lost_sector_is_damaged(picture: NDArray[np.uint8]) -> None:
    found = io.BytesIO()
    Image.fromarray(picture[600:1112, 700:1212]).save(found, "JPEG2000", no_jp2=True, quality_layers=[20])
    whole = found.getvalue()
    middle = len(whole) // 2
    assert is_whole_jpeg_2000(whole)
    assert is_whole_jpeg_2000(whole + b"\0")  # DICOM pads to an even length
    assert not is_whole_jpeg_2000(whole[:middle])
    assert not is_whole_jpeg_2000(whole[:middle] + bytes(600) + whole[middle + 600 :])
    assert not is_whole_jpeg_2000(bytes(len(whole)))
    assert not is_whole_jpeg_2000(b"")


def test_deflate_is_judged_by_its_length_and_its_checksum(picture: NDArray[np.uint8]) -> None:
    pixels = picture[:256, :256].tobytes()
    whole = zlib.compress(pixels)
    assert is_whole_deflate(whole, len(pixels))
    assert not is_whole_deflate(whole, len(pixels) + 1)
    assert not is_whole_deflate(whole[: len(whole) // 2], len(pixels))
    assert not is_whole_deflate(zeros(whole), len(pixels))


def lzw(tile: NDArray[np.uint8]) -> bytes:
    """Compress by LZW (TIFF 6.0, section 13), with codes of 9 bits and a new table before they run out."""
    data, run, clear, end = tile.ravel().astype(np.uint16), 192, 256, 257
    codes = np.column_stack([np.full(len(data) // run, clear, np.uint16), data.reshape(-1, run)]).ravel()
    return np.packbits(
        (np.append(codes, end)[:, None] >> np.arange(8, -1, -1, dtype=np.uint16)) & 1
    ).tobytes()


def test_a_damaged_tile_that_only_decoding_can_judge_is_left_out_and_the_slide_is_read(
    tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    """Whole tiles next to it come out unchanged."""
    path, picture, side = tmp_path / "a.tif", picture[::2, ::2].copy(), 64
    height, width = (length // side * side for length in picture.shape[:2])
    tiles = [picture[y:, x:][:side, :side] for y in range(0, height, side) for x in range(0, width, side)]
    with tifffile.TiffWriter(path) as file:
        how = {"tile": (side, side), "photometric": "rgb", "compression": "zlib"}
        file.write(map(lzw, tiles), shape=(height, width, 3), dtype=np.uint8, **how)
    deflate, by_lzw = (struct.pack("<HHIH", 259, 3, 1, code) for code in (8, 5))
    path.write_bytes(path.read_bytes().replace(deflate, by_lzw))
    sound = read(path)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    one, other = len(offsets) // 2 + 8, len(offsets) // 2 - 28
    for number in (one, other):
        spoil(path, lambda data: b"\xff" * len(data), [(offsets[number], offsets[number] + counts[number])])
    found = read(path)
    assert "damaged" not in sound.flags
    assert "damaged" in found.flags
    assert (found.left_out, found.checked) == (2, False)
    assert len(sound.tiles.keys() - found.tiles.keys()) == 2
    assert differ(found, sound) == 0
    with open_slide(path, mpp=MPP) as slide:
        y, x = (side * place for place in divmod(one, width // side))
        with pytest.raises(InvalidInputError):
            slide.read_region(x, y, 0, side, side)
        assert 0 < slide.unseen < 0.05  # the one known before, and the one found while reading

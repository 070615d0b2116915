"""An open slide: its size, scale and identity, and its pixels at any scale."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import safe_name
from histgen_lib.slides import source
from histgen_lib.slides.mpp import MppSource, decide_mpp
from histgen_lib.slides.reading import read_grid, read_overview, read_scaled
from histgen_lib.slides.resample import resize
from histgen_lib.slides.scanner import maker_of, scanner_of
from histgen_lib.slides.settings import Level, TileBatch, TileGrid
from histgen_lib.slides.tissue import TissueMap, find_tissue

OVERVIEW_MPP = 8.0
"""Scale of the picture that tissue is looked for in: 16 px across a tile of 256 px at 0.5 mpp."""

MOST_OVERVIEW_PX = 6144
LEAST_SIDE_PX = 32
MOST_FLAT_PX = 4 * 10**9
"""Largest coarsest level that is still read whole for the overview: about a minute of reading."""


FAST_VENDORS = ("aperio", "generic-tiff")
"""Formats whose levels are plain TIFF pages, one a level, so that their tiles may be decoded directly."""


class PixelSource(Protocol):
    """What `Slide` needs of a reader. `read` gives uint8[height,width,3] RGB; its corner is in level-0 px."""

    vendor: str
    properties: dict[str, str]
    levels: tuple[Level, ...]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read part of a level."""

    def close(self) -> None:
        """Give the file back."""


class Slide:
    """One whole-slide image. Use it as a context manager, or `close` it.

    `path`: as given. `slide_id`: the file's stem, safe as a folder name, unless another was given. `size`:
    (width, height) in level-0 px. `levels`: finest first. `mpp`: µm per level-0 px; `mpp_source` says who is
    believed. `scanner`: as written in the slide, or None: may hold a serial number. `maker`: of the scanner,
    from a list, or None. `vendor`: OpenSlide's name of the format. Reading is safe from several threads.
    """

    def __init__(
        self,
        path: Path,
        pixels: PixelSource,
        *,
        mpp: float,
        mpp_source: MppSource,
        file: Path | None = None,
        slide_id: str | None = None,
    ) -> None:
        self.path = path
        self.slide_id = slide_id or safe_id(path)
        self.levels = _checked_levels(path.name, pixels.levels)
        self.size = self.levels[0].size
        self.mpp = mpp
        self.mpp_source: MppSource = mpp_source
        self.vendor = pixels.vendor
        self.scanner = scanner_of(pixels.properties)
        self.maker = maker_of(pixels.vendor, pixels.properties)
        self._pixels = pixels
        self._file = file or path

    @cached_property
    def content_id(self) -> str:
        """SHA-256 of all bytes the slide is stored in (64 hexadecimal digits); reads the whole file once."""
        return source.content_id(
            self._file, series_uid=self._pixels.properties.get("dicom.SeriesInstanceUID")
        )

    @cached_property
    def overview(self) -> tuple[NDArray[np.uint8], float]:
        """The whole slide at about 8 µm/px: uint8[h,w,3] RGB, and its downsample (level-0 px per its px).

        Raises `InvalidInputError`: `slide-no-pyramid`, `slide-read-failed`.
        """
        coarsest = self.levels[-1].size
        if coarsest[0] * coarsest[1] > MOST_FLAT_PX:
            raise InvalidInputError(
                "slide-no-pyramid",
                f"{self.path.name} has no small version of its {self.size[0]}×{self.size[1]} px.",
                hint="Convert it to a pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid",
            )
        downsample = max(1.0, OVERVIEW_MPP / self.mpp, max(self.size) / MOST_OVERVIEW_PX)
        return read_overview(self._pixels, self.levels, downsample), downsample

    @cached_property
    def tissue_map(self) -> TissueMap:
        """What covers the slide, for each pixel of its overview. Raises as `overview`."""
        picture, downsample = self.overview
        return find_tissue(picture, mpp=self.mpp * downsample)

    def read_region(self, x: int, y: int, level: int, w: int, h: int) -> NDArray[np.uint8]:
        """Read `w` × `h` px of `level`, corner (x, y) in level-0 px → uint8[h,w,3] RGB; outside is white.

        Raises `InvalidInputError("slide-read-failed")`.
        """
        return self._pixels.read(x, y, level, w, h)

    def read_scaled(self, x: int, y: int, *, span_px: float, out_px: int) -> NDArray[np.uint8]:
        """Read a square of `span_px` level-0 px from corner (x, y) as uint8[out_px,out_px,3] RGB."""
        return read_scaled(self._pixels, self.levels, (x, y), (out_px, out_px), span_px / out_px)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide with its longer side at most `max_px` px: uint8[h,w,3] RGB."""
        picture, _ = self.overview
        scale = min(1.0, max_px / max(picture.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        return resize(picture, width, height)

    def read_tiles(
        self, grid: TileGrid, batch_size: int = 64, *, threads: int | None = None
    ) -> Generator[TileBatch, None, None]:
        """Yield the tiles of `grid`, in its order, `batch_size` at a time (the last batch may be smaller).

        `threads`: how many tiles' regions are decoded at once (default: processors, at most 4). The pixels
        do not depend on `batch_size` or `threads`. Raises `InvalidInputError("slide-read-failed")`.
        """
        return read_grid(self._pixels, self.levels, grid, batch_size=batch_size, threads=threads)

    def close(self) -> None:
        """Give the file back."""
        self._pixels.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    scanner_mpp: Mapping[str, float] | None = None,
    fast: bool = True,
    slide_id: str | None = None,
) -> Slide:
    """Open a slide in any format that OpenSlide reads, or a folder with one DICOM whole-slide series.

    `mpp`: µm per level-0 pixel, overriding what the file says. `scanner_mpp`: defaults by scanner or vendor
    name for files that say nothing believable. `fast`: let tiled JPEG be decoded without OpenSlide, where
    both agree. `slide_id`: what the slide is called, if not as its file. Raises `InvalidInputError`:
    `slide-missing`, `slide-empty`, `slide-unreadable`, `slide-is-folder`, `slide-format-unknown`,
    `slide-damaged`, `slide-too-small`, `slide-pyramid-corrupt`, and those of
    `histgen_lib.slides.mpp.decide_mpp`.
    """
    path = Path(path)
    file = source.locate(path)
    pixels = _open_pixels(file, fast=fast)
    try:
        scanner = scanner_of(pixels.properties)
        value, origin = decide_mpp(
            path,
            stated=mpp,
            in_file=(pixels.properties.get("openslide.mpp-x"), pixels.properties.get("openslide.mpp-y")),
            scanner_names=tuple(name for name in (scanner, pixels.vendor) if name),
            scanner_mpp=scanner_mpp or {},
        )
        return Slide(path, pixels, mpp=value, mpp_source=origin, file=file, slide_id=slide_id)
    except BaseException:
        pixels.close()
        raise


def _open_pixels(file: Path, *, fast: bool) -> PixelSource:
    from histgen_lib.slides import _jpeg_tiff, _openslide  # noqa: PLC0415 - heavy, only when a slide is opened

    slow = _openslide.OpenSlideImage(file)
    levels = _jpeg_tiff.tiled_levels(file, slow.levels) if fast and slow.vendor in FAST_VENDORS else {}
    try:
        return _jpeg_tiff.JpegTiffImage(file, slow, levels) if levels else slow
    except BaseException:
        slow.close()
        raise


def safe_id(path: Path) -> str:
    """Return the file's stem with everything but letters, digits, `.`, `_` and `-` replaced by `_`."""
    return safe_name(path.name if path.is_dir() else path.stem)


def _checked_levels(name: str, levels: tuple[Level, ...]) -> tuple[Level, ...]:
    if not levels or min(levels[0].size) < LEAST_SIDE_PX:
        size = levels[0].size if levels else (0, 0)
        raise InvalidInputError(
            "slide-too-small",
            f"{name} is only {size[0]}×{size[1]} px.",
            hint="This is not a whole-slide image; give the scanner's full-resolution file.",
        )
    for level in levels[1:]:
        if not _same_shape(levels[0].size, level.size):
            raise InvalidInputError(
                "slide-pyramid-corrupt",
                f"{name} has a level of {level.size[0]}×{level.size[1]} px that is no reduction of its "
                f"{levels[0].size[0]}×{levels[0].size[1]} px.",
                hint="The pyramid is damaged. Export or convert the slide again.",
            )
    return levels


def _same_shape(full: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether both sides shrink by the same factor, give or take rounding to whole px (2 px, or 2 %)."""
    expected = full[1] * small[0] / full[0]
    return abs(expected - small[1]) <= max(2.0, 0.02 * max(expected, small[1]))

"""An open slide: its size, scale and identity, and its pixels at any scale."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import slide_id_of
from histgen_lib.slides import source
from histgen_lib.slides.headers import check_headers, check_levels
from histgen_lib.slides.metadata import (
    MppSource,
    decide_mpp,
    doubted,
    maker_of,
    scale_flags,
    scanner_of,
    written_mpp,
)
from histgen_lib.slides.pyramid import believed_levels
from histgen_lib.slides.readers import Reader, open_reader
from histgen_lib.slides.readers.refusals import of_planes
from histgen_lib.slides.reading import (
    best_level,
    read_grid,
    read_overview,
    read_scaled,
    read_square,
    resize,
    too_damaged,
)
from histgen_lib.slides.settings import Level, TileBatch, TileGrid
from histgen_lib.slides.tissue import TissueMap, find_tissue

OVERVIEW_MPP = 8.0
"""Scale of the picture in which tissue is sought: 16 px across a tile of 256 px at 0.5 mpp."""

MOST_OVERVIEW_PX = 6144
LEAST_SIDE_PX = 32
MOST_FLAT_PX = 40 * 10**9
"""Largest coarsest level that is read whole for the overview, piece by piece: about ten minutes."""


class Slide:
    """One whole-slide image. Use it as a context manager, or `close` it.

    `path`: as passed to `open_slide`. `slide_id`: as stated, else made of the file's name, safe as a folder
    name. `size`: (width, height) in level-0 px. `levels`: finest first, without those that do not show what
    level 0 shows. `mpp`: µm per level-0 px; `mpp_source`: where it was taken from. `file_mpp`: what the file
    itself states where another value is used, right or wrong. `flags`: findings on opening that a reader of
    the draft must know. `scanner`: as written in the slide, or None; may hold a serial number. `maker`: of
    the scanner, from a list, or None. `vendor`: OpenSlide's name of the format. Reading is safe from several
    threads.
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        *,
        mpp: float,
        mpp_source: MppSource,
        file_mpp: float | None = None,
        levels: tuple[Level, ...] = (),
        flags: tuple[str, ...] = (),
        file: Path | None = None,
        slide_id: str | None = None,
    ) -> None:
        self.path = path
        self.slide_id = slide_id or slide_id_of(path)
        self.levels = levels or reader.levels
        self.size = self.levels[0].size
        self.flags = flags
        self.mpp = mpp
        self.mpp_source: MppSource = mpp_source
        self.file_mpp = None if mpp_source == "file" else file_mpp
        self.vendor = reader.vendor
        self.scanner = scanner_of(reader.properties)
        self.maker = maker_of(reader.vendor, reader.properties)
        self._reader, self._unseen = reader, 0.0
        self._file = file or path

    @cached_property
    def content_id(self) -> str:
        """SHA-256 of all bytes the slide is stored in (64 hexadecimal digits); reads the whole file once."""
        return source.content_id(
            self._file, series_uid=self._reader.properties.get("dicom.SeriesInstanceUID")
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
        picture, lost = read_overview(self._reader, self.levels, downsample)
        self._refuse_if_damaged(int(lost.sum()), lost.size, "its overview")
        self._unseen = float(lost.mean())
        return picture, downsample

    @cached_property
    def tissue_map(self) -> TissueMap:
        """What covers the slide, for each pixel of its overview. Raises as `overview`."""
        picture, downsample = self.overview
        return find_tissue(picture, mpp=self.mpp * downsample)

    def read_region(self, x: int, y: int, level: int, w: int, h: int) -> NDArray[np.uint8]:
        """Read `w` × `h` px of a level, from corner (x, y) in level-0 px → uint8[h,w,3] RGB, white outside.

        Raises `InvalidInputError("slide-read-failed")`, also for damage there.
        """
        number = self.levels[level].number
        pixels = self._reader.read(x, y, number, w, h)
        if not self._reader.is_whole(x, y, number, w, h):
            raise self._damaged("a tile there is damaged in the file")
        return pixels

    def read_scaled(self, x: int, y: int, *, span_px: float, out_px: int) -> NDArray[np.uint8]:
        """Read a square of `span_px` level-0 px from corner (x, y) as uint8[out_px,out_px,3] RGB."""
        return read_scaled(self._reader, self.levels, (x, y), (out_px, out_px), span_px / out_px)

    def read_square(self, x: int, y: int, *, span_px: float, out_px: int) -> NDArray[np.uint8]:
        """As `read_scaled`, for squares that may be far larger than the slide: only what is on it is read."""
        return read_square(self._reader, self.levels, (x, y), span_px, out_px)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide with its longer side at most `max_px` px: uint8[h,w,3] RGB."""
        picture, _ = self.overview
        scale = min(1.0, max_px / max(picture.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        return resize(picture, width, height)

    def read_tiles(
        self, grid: TileGrid, batch_size: int = 64, *, threads: int | None = None, refuse: bool = True
    ) -> Generator[TileBatch, None, None]:
        """Yield the tiles of `grid`, in its order, `batch_size` at a time (the last batch may be smaller).

        Tiles that are damaged in the file are left out; if they are more than 5 %, the slide is refused in
        the end (with `refuse` False, for a sample: only if no tile is whole). `threads`: how many regions are
        decoded at once (default: cores, at most 4). The pixels do not depend on `batch_size` or `threads`.
        Raises `InvalidInputError("slide-read-failed")`.
        """
        whole = 0
        for batch in read_grid(self._reader, self.levels, grid, batch_size=batch_size, threads=threads):
            whole += len(batch)
            yield batch
        if refuse or not whole:
            self._refuse_if_damaged(len(grid) - whole, len(grid), "its tiles")

    def notices_damage(self, grid: TileGrid) -> bool:
        """Return whether damage would be noticed in the level that the tiles of `grid` are read from."""
        level = best_level(self.levels, grid.span_px / grid.tile_px)
        return self._reader.checks(self.levels[level].number)

    @property
    def unseen(self) -> float:
        """Fraction (0…1) of the overview that is damaged in the file. Raises as `overview`."""
        _ = self.overview
        return self._unseen

    def _refuse_if_damaged(self, damaged: int, of: int, what: str) -> None:
        if too_damaged(damaged, of):
            raise self._damaged(f"{damaged / of:.0%} of {what} is damaged")

    def _damaged(self, why: str) -> InvalidInputError:
        return InvalidInputError(
            "slide-read-failed",
            f"Pixels of {self.path.name} cannot be read: {why}.",
            hint="The file is damaged, or it changed while it was being read. Copy it again and retry.",
        )

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

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
    within: source.Bounds | None = None,
) -> Slide:
    """Open a slide in any format that OpenSlide reads, or a folder with one DICOM whole-slide series.

    `mpp`: µm per level-0 pixel, overriding what the file says. `scanner_mpp`: defaults by scanner or vendor
    name, for files that state nothing believable. `fast`: allow readers other than OpenSlide, where both
    agree. `slide_id`: the slide's id, if not that of its file's name. `within`: where all its files have to
    lie; None: anywhere. Raises `InvalidInputError`: `slide-is-folder`, `slide-empty`,
    `slide-header-too-large`, `slide-format-unknown`, `slide-not-supported`, `slide-incomplete`,
    `slide-damaged`, `slide-too-small`, and those of `histgen_lib.slides.source.admit` and
    `histgen_lib.slides.metadata.decide_mpp`.
    """
    path = Path(path)
    source.admit(path, within)
    file = source.locate(path)
    _check_headers(file)
    reader = open_reader(file, fast=fast)
    try:
        check_levels(path, reader.levels)
        _check_sizes(path, reader.levels)
        scanner = scanner_of(reader.properties)
        in_file = (reader.properties.get("openslide.mpp-x"), reader.properties.get("openslide.mpp-y"))
        value, origin = decide_mpp(
            path,
            stated=mpp,
            in_file=in_file,
            scanner_names=tuple(name for name in (scanner, reader.vendor) if name),
            scanner_mpp=scanner_mpp or {},
            within=within,
        )
        believed = believed_levels(reader, reader.levels)
        return Slide(
            path,
            reader,
            mpp=value,
            mpp_source=origin,
            file_mpp=written_mpp(in_file),
            levels=tuple(reader.levels[number] for number in believed.kept),
            flags=(
                *(("levels-left-out",) if believed.wrong else ()),
                *scale_flags(value, in_file),
                *(("scale-doubtful",) if origin == "file" and doubted(value, reader.properties) else ()),
            ),
            file=file,
            slide_id=slide_id,
        )
    except BaseException:
        reader.close()
        raise


def _check_headers(file: Path) -> None:
    try:
        check_headers(file)
    except (OSError, ValueError) as error:
        raise source.unreadable_slide(file, error) from error


def _check_sizes(path: Path, levels: tuple[Level, ...]) -> None:
    size = levels[0].size if levels else (0, 0)
    if min(size) < LEAST_SIDE_PX:
        raise InvalidInputError(
            "slide-too-small",
            f"{path.name} is only {size[0]}×{size[1]} px.",
            hint="This is not a whole-slide image; give the scanner's full-resolution file.",
        )
    if any(level.size == size for level in levels[1:]):
        raise of_planes(path)

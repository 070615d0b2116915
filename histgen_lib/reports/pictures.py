"""Pictures for the renderings: thumbnails, evidence tiles, heatmaps, and data URIs for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histgen_lib.errors import InvalidInputError
from histgen_lib.reports.record import DraftReport, Region, SimilarPair
from histgen_lib.slides import Slide
from histgen_lib.slides.reading import inside, resize

THUMBNAIL_PX = 1400
EVIDENCE_PX = 256
PAIR_PX = 320
_MOST_PIXELS = 64_000_000  # a level larger than this is not read whole for a thumbnail
_HEAT_CELLS = 320  # longest side of a heatmap; the page scales it up smoothly
_HEAT_STOPS = np.array(  # dark blue → teal → lime → yellow: far from H&E's pinks, brightness rises throughout
    [[10, 40, 130], [0, 130, 150], [70, 200, 90], [255, 240, 0]], dtype=np.float64
)


Place = tuple[int, int]
"""A tile's left and top edge, level-0 px."""
PairNumber = tuple[int, int]
"""Which pair of which similar case, both counted from 0 in the draft's order."""


@dataclass(frozen=True)
class Square:
    """A part of a slide as a picture shows it: its left and top edge and its side, level-0 px."""

    x: int
    y: int
    side: int


@dataclass(frozen=True)
class PairPictures:
    """Two regions that look alike: uint8[t, t, 3] RGB of the squares of `pair_squares`, None if unknown."""

    here: NDArray[np.uint8]
    there: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Pictures:
    """What the renderings may show of one slide.

    thumbnail  WebP of the whole slide (see `thumbnail_webp`), or None when only a bag was given
    tiles      uint8[t, t, 3] RGB by the tile's level-0 (x, y); empty when only a bag was given
    xy         int32[N, 2] level-0 px, top-left of every tile of the bag
    weights    float32[S, N]: each sentence's evidence over the bag's tiles; rows sum to 1 over all slides
    pairs      of the similar cases, those whose region here lies on this slide
    """

    thumbnail: bytes | None
    xy: NDArray[np.int32]
    span_px: float
    weights: NDArray[np.float32]
    tiles: Mapping[Place, NDArray[np.uint8]] = field(default_factory=dict)
    pairs: Mapping[PairNumber, PairPictures] = field(default_factory=dict)


class HeatCells:
    """A coarse map of a slide of `size` (w, h in level-0 px), onto which tiles' weights are painted."""

    def __init__(self, xy: NDArray[np.int32], span_px: float, size: tuple[int, int]) -> None:
        cell_px = max(span_px / 4, max(size) / _HEAT_CELLS)
        width, height = (max(1, round(side / cell_px)) for side in size)
        self.shape = (height, width)
        cells_per_px = np.array([width / size[0], height / size[1]])
        starts = np.round(xy * cells_per_px).astype(int).clip(min=0)  # the first tiles may begin before it
        ends = np.maximum(np.round((xy + span_px) * cells_per_px).astype(int), starts + 1)
        self._rows, self._cells = _covered(starts, np.minimum(ends, (width, height)), width)

    def paint(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """Paint each tile's weight [N]; the larger wins where tiles overlap: float64[h, w]."""
        canvas = np.zeros(self.shape[0] * self.shape[1])
        np.maximum.at(canvas, self._cells, np.asarray(weights, dtype=np.float64)[self._rows])
        return canvas.reshape(self.shape)

    def heatmap(self, weights: NDArray[np.floating], peak: float | None = None) -> NDArray[np.uint8]:
        """Draw weights [N] as transparent colours uint8[h, w, 4]; the strongest tile is yellow.

        Weights are scaled by `peak` (default: their maximum), and their square root is drawn so that weak
        evidence stays visible.
        """
        heat = self.paint(weights)
        peak = float(heat.max()) if peak is None else peak
        return _colour(np.sqrt(heat / peak) if peak > 0 else heat)

    def silhouette(self) -> NDArray[np.uint8]:
        """Draw in grey where the tiles lie; stands in for the thumbnail when there are no pixels."""
        covered = np.zeros(self.shape, dtype=bool)
        covered.ravel()[self._cells] = True
        return np.repeat(np.where(covered, 196, 244).astype(np.uint8)[..., None], 3, axis=2)


def make_thumbnail(slide: Slide) -> bytes:
    """Return a WebP of the whole of an open slide."""
    return thumbnail_webp(sharp_overview(slide))


def sharp_overview(slide: Slide) -> NDArray[np.uint8]:
    """Read the smallest level that is sharp at THUMBNAIL_PX; the overview if it is huge or damaged."""
    sharp = [i for i, level in enumerate(slide.levels) if max(level.size) >= THUMBNAIL_PX]
    level = max(sharp, default=0)
    width, height = slide.levels[level].size
    if width * height > _MOST_PIXELS:
        return slide.thumbnail(THUMBNAIL_PX)
    try:
        return slide.read_region(0, 0, level, width, height)
    except InvalidInputError:  # damaged there: the overview works around it
        return slide.thumbnail(THUMBNAIL_PX)


def evidence_places(draft: DraftReport, slide_id: str | None = None) -> set[Place]:
    """Return the (x, y) of all tiles shown as evidence, or of those on one slide of a case."""
    tiles = [tile for sentence in draft.sentences for tile in sentence.shown_evidence]
    return {(tile.x, tile.y) for tile in tiles if tile.slide_id == slide_id}


def read_evidence(slide: Slide, places: Collection[Place], span_px: float) -> dict[Place, NDArray[np.uint8]]:
    """Read evidence tiles of an open slide: uint8[EVIDENCE_PX, EVIDENCE_PX, 3] by place."""
    return {p: slide.read_scaled(*p, span_px=span_px, out_px=EVIDENCE_PX) for p in sorted(places)}


def pair_numbers(draft: DraftReport, slide_id: str | None = None) -> dict[PairNumber, SimilarPair]:
    """Return the pairs of the similar cases, or those whose region here lies on one slide of a case."""
    cases = draft.similar.cases if draft.similar else ()
    return {
        (i, j): pair
        for i, case in enumerate(cases)
        for j, pair in enumerate(case.pairs)
        if pair.here_slide_id == slide_id
    }


def pair_squares(pair: SimilarPair, here_mpp: float | None, there_mpp: float | None) -> tuple[Square, Square]:
    """Return what the two pictures of a pair show: squares around its regions, at the same scale.

    If the scale of a slide is not known, each is as large as its region.
    """
    here, there = (max(region.width, region.height) for region in (pair.here, pair.there))
    if here_mpp and there_mpp:
        field_um = max(here * here_mpp, there * there_mpp)
        here, there = (max(1, round(field_um / mpp)) for mpp in (here_mpp, there_mpp))
    return _around(pair.here, here), _around(pair.there, there)


def read_square(slide: Slide, square: Square, thumbnail: bytes | None) -> NDArray[np.uint8]:
    """Read a square of an open slide, or take it out of its thumbnail if the file is damaged there."""
    try:
        return slide.read_square(square.x, square.y, span_px=square.side, out_px=PAIR_PX)
    except InvalidInputError:
        if thumbnail is None:
            raise
        return crop(thumbnail, slide.size, square)


def crop(thumbnail: bytes, size: tuple[int, int], square: Square) -> NDArray[np.uint8]:
    """Take a square out of the thumbnail of a slide of `size` (level-0 px); white past the slide's edges."""
    with Image.open(io.BytesIO(thumbnail)) as opened:
        picture = opened.convert("RGB")
    by = max(picture.size) / max(size)
    left, top, factor = square.x * by, square.y * by, square.side * by / PAIR_PX
    columns = inside(left, picture.width, factor, PAIR_PX)
    rows = inside(top, picture.height, factor, PAIR_PX)
    sheet = Image.new("RGB", (PAIR_PX, PAIR_PX), "white")
    if columns and rows:
        box = (
            max(0.0, left + columns.start * factor),
            max(0.0, top + rows.start * factor),
            min(picture.width, left + columns.stop * factor),
            min(picture.height, top + rows.stop * factor),
        )
        part = picture.resize((len(columns), len(rows)), Image.Resampling.BICUBIC, box)
        sheet.paste(part, (columns.start, rows.start))
    return np.asarray(sheet)


def _around(region: Region, side: int) -> Square:
    return Square(
        round(region.x + (region.width - side) / 2), round(region.y + (region.height - side) / 2), side
    )


def overall(draft: DraftReport, weights: NDArray[np.float32]) -> NDArray[np.floating]:
    """Average the lines' weights [S, N] for the map of the whole draft: float[N].

    Lines whose evidence is not shown are left out.
    """
    shown = [row for row, sentence in enumerate(draft.sentences) if sentence.shown_evidence]
    return weights[shown].mean(axis=0) if shown else np.zeros(weights.shape[1])


def thumbnail_webp(rgb: NDArray[np.uint8]) -> bytes:
    """Shrink uint8[h, w, 3] RGB so that no side exceeds THUMBNAIL_PX, and pack it as WebP."""
    return _packed(_shrunk(rgb, THUMBNAIL_PX), "WEBP", quality=82, method=2)


def heatmap_webp(rgba: NDArray[np.uint8]) -> bytes:
    """Pack a heatmap without loss as WebP."""
    return _packed(Image.fromarray(rgba), "WEBP", lossless=True, quality=0, method=0)


def tile_uri(rgb: NDArray[np.uint8], *, max_px: int) -> str:
    """Return a data URI of `rgb`, shrunk so that no side exceeds `max_px`.

    WebP at these settings is closer to the pixels than JPEG at quality 78, in brightness and in both chroma
    channels, on slides of two scanners and on synthetic ones, and smaller: docs/decisions/0016.
    """
    return data_uri("image/webp", _packed(_shrunk(rgb, max_px), "WEBP", quality=78, method=2))


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Return a PNG data URI of RGB or RGBA pixels."""
    return data_uri("image/png", _packed(Image.fromarray(np.ascontiguousarray(pixels)), "PNG"))


def data_uri(kind: str, data: bytes) -> str:
    """Return a data URI of bytes of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _shrunk(rgb: NDArray[np.uint8], most_px: int) -> Image.Image:
    """Shrink a picture so that no side exceeds `most_px`; a smaller one stays as it is."""
    height, width = rgb.shape[:2]
    scale = min(1.0, most_px / max(height, width))
    return Image.fromarray(
        resize(np.ascontiguousarray(rgb), max(1, round(width * scale)), max(1, round(height * scale)))
    )


def _packed(image: Image.Image, kind: str, **settings: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def _covered(
    starts: NDArray[np.int_], ends: NDArray[np.int_], width: int
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """List (tile, cell) pairs: the cells of a canvas `width` wide in each tile's box [start, end)."""
    across, down = (ends - starts).clip(min=0).T
    x, y = (np.arange(int(sides.max(initial=0))) for sides in (across, down))
    inside = (x[None, None, :] < across[:, None, None]) & (y[None, :, None] < down[:, None, None])
    cells = (starts[:, 1, None, None] + y[:, None]) * width + starts[:, 0, None, None] + x
    return np.nonzero(inside)[0], np.broadcast_to(cells, inside.shape)[inside]


def _colour(strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGBA of 0..1 strengths: colour and opacity both rise."""
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(strength, stops, _HEAT_STOPS[:, i]) for i in range(3)]
    alpha = np.where(strength > 0.08, 45 + 115 * strength, 0)
    return np.stack([*channels, alpha], axis=-1).round().astype(np.uint8)

"""Pixels for the HTML page as data URIs: tiles and thumbnail as JPEG, evidence as a transparent heatmap."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HEAT_CELLS = 320  # longest side of a heatmap; the page scales it up smoothly
_HEAT_STOPS = np.array(  # dark blue → teal → lime → yellow: far from H&E's pinks, brightness rises throughout
    [[10, 40, 130], [0, 130, 150], [70, 200, 90], [255, 240, 0]], dtype=np.float64
)


@dataclass(frozen=True)
class Pictures:
    """What the renderer may show.

    thumbnail  uint8[h, w, 3] RGB of the whole slide, or None when only a bag was given
    tiles      uint8[t, t, 3] RGB by the tile's level-0 (x, y)
    xy         int32[N, 2] level-0 px, top-left of every tile of the bag
    weights    float32[S, N]: the evidence of each sentence over the bag's tiles, rows sum to 1
    """

    thumbnail: NDArray[np.uint8] | None
    xy: NDArray[np.int32]
    span_px: float
    weights: NDArray[np.float32]
    tiles: Mapping[tuple[int, int], NDArray[np.uint8]] = field(default_factory=dict)


def jpeg_uri(rgb: NDArray[np.uint8], *, max_px: int, quality: int = 82) -> str:
    """Make a JPEG data URI of `rgb`, shrunk so that no side exceeds `max_px`."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return _uri("image/jpeg", buffer.getvalue())


def heatmap_uri(
    xy: NDArray[np.int32], span_px: float, weights: NDArray[np.floating], slide_size: tuple[int, int]
) -> str:
    """Make a transparent PNG data URI over the whole slide; the strongest tile is yellow.

    `weights` [N] are scaled by their maximum, and their square root is drawn so that weak evidence stays
    visible.
    """
    heat = _raster(xy, span_px, np.asarray(weights, dtype=np.float64), slide_size)
    strength = np.sqrt(heat / heat.max()) if heat.max() > 0 else heat
    return png_uri(_colour(strength))


def silhouette_uri(xy: NDArray[np.int32], span_px: float, slide_size: tuple[int, int]) -> str:
    """Draw in grey where the tiles are: stands in for the thumbnail when there are no pixels."""
    covered = _raster(xy, span_px, np.ones(len(xy)), slide_size) > 0
    grey = np.where(covered, 196, 244).astype(np.uint8)
    return png_uri(np.repeat(grey[..., None], 3, axis=2))


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Make a PNG data URI of RGB or RGBA pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _raster(
    xy: NDArray[np.int32], span_px: float, values: NDArray[np.float64], slide_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Paint each tile's value on a coarse map of the slide; the larger wins where tiles overlap."""
    cell_px = max(span_px / 4, max(slide_size) / _HEAT_CELLS)
    width, height = (max(1, round(side / cell_px)) for side in slide_size)
    canvas = np.zeros((height, width))
    cells_per_px = np.array([width / slide_size[0], height / slide_size[1]])
    starts = np.round(xy * cells_per_px).astype(int)
    ends = np.maximum(np.round((xy + span_px) * cells_per_px).astype(int), starts + 1)
    for (x0, y0), (x1, y1), value in zip(starts, ends, values, strict=True):
        square = canvas[y0:y1, x0:x1]
        np.maximum(square, value, out=square)
    return canvas


def _colour(strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGBA of 0..1 strengths: colour and opacity both rise."""
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(strength, stops, _HEAT_STOPS[:, i]) for i in range(3)]
    alpha = np.where(strength > 0.08, 45 + 115 * strength, 0)
    return np.stack([*channels, alpha], axis=-1).round().astype(np.uint8)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"

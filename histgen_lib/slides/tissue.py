"""Distinguishing tissue from glass, ink and dirt on a small picture of the whole slide.

The colour of each slide's glass is measured first, so a grey or lilac background does not matter. Stained
tissue is coloured; stripes, shadows, bubbles and dust are not. Ink is coloured too, but in hues that
haematoxylin, eosin and blood do not have, or in larger uniform patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Picture = NDArray[np.float32]

_SMOOTH_UM = 8.0
_GLASS_LEAST_BRIGHTNESS = 130.0
_GLASS_MOST_SATURATION = 0.12
_GLASS_MOST_TEXTURE = 4.0
"""Standard deviation of brightness around a pixel, in grey values; tissue at 8 µm/px has 6 and more."""
_GLASS_LEAST_PART = 0.002
_FILL_VALUE = 254
"""What scanners write where they did not scan, which is not glass."""

_CHROMA_STRONG, _CHROMA_WEAK = 0.09, 0.045
"""Colourfulness relative to glass (0…1) that marks tissue, and that extends marked tissue to its pale rim."""
_TISSUE_LEAST_MM2 = 0.0025
_HOLE_MOST_MM2 = 0.01
_PEN_LEAST_MM2 = 0.02
_PEN_RIM_UM = 24.0


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What covers the slide, for each pixel of the overview.

    `tissue`, `pen`: bool[h,w], never both. `background`: colour of the glass, RGB 0…255.
    """

    tissue: Mask
    pen: Mask
    background: tuple[float, float, float]


def find_tissue(picture: NDArray[np.uint8], *, mpp: float) -> TissueMap:
    """Find tissue and ink on `picture`, uint8[h,w,3] RGB, whose pixels are `mpp` µm wide (best: 4…16)."""
    smooth = cv2.GaussianBlur(picture, (0, 0), max(0.5, _SMOOTH_UM / mpp)).astype(np.float32)
    glass = glass_colour(picture, smooth)
    relative = np.clip(smooth / np.asarray(glass, np.float32), 0, 1)
    pen = _pen(relative, mpp)
    chroma = relative.max(axis=2) - relative.min(axis=2)
    tissue = _grown(chroma > _CHROMA_STRONG, chroma > _CHROMA_WEAK) & ~pen
    return TissueMap(_tidied(tissue, mpp) & ~pen, pen, glass)


def glass_colour(picture: NDArray[np.uint8], smooth: Picture) -> tuple[float, float, float]:
    """Estimate the colour of empty glass, RGB 0…255: the brightest frequent shade of uniform, colourless px.

    If a slide shows no glass at all, near-white is assumed.
    """
    brightness = smooth.mean(axis=2)
    saturation = 1 - smooth.min(axis=2) / np.maximum(smooth.max(axis=2), 1)
    even = _texture(picture) < _GLASS_MOST_TEXTURE
    glass = (brightness > _GLASS_LEAST_BRIGHTNESS) & (saturation < _GLASS_MOST_SATURATION) & even
    scanned = glass & (picture.min(axis=2) < _FILL_VALUE)
    chosen = scanned if scanned.mean() >= _GLASS_LEAST_PART else glass
    if chosen.mean() < _GLASS_LEAST_PART:
        return (245.0, 245.0, 245.0)
    peak = _brightest_frequent(brightness[chosen])
    colours = smooth[chosen & (np.abs(brightness - peak) <= 3)]
    red, green, blue = np.median(colours, axis=0).tolist()
    return (red, green, blue)


def _texture(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure the standard deviation of brightness in 5 × 5 px around each pixel: float32[h,w]."""
    grey = picture.mean(axis=2, dtype=np.float32)
    mean = cv2.blur(grey, (5, 5))
    return np.asarray(np.sqrt(np.maximum(cv2.blur(grey * grey, (5, 5)) - mean * mean, 0)))


def _brightest_frequent(brightness: NDArray[np.float32]) -> float:
    """Return the brightest peak of the histogram that is at least a quarter as high as the highest."""
    counts, _ = np.histogram(brightness, bins=256, range=(0, 256))
    counts = np.convolve(counts, np.ones(5) / 5, mode="same")
    higher = counts >= np.maximum(np.roll(counts, 1), np.roll(counts, -1))
    return float(np.flatnonzero(higher & (counts >= counts.max() / 4)).max()) + 0.5


def _ink_hues(relative: Picture) -> tuple[tuple[Mask, Mask], ...]:
    """Return what is certainly, and what is possibly, ink: green, blue, red and black.

    Haematoxylin and eosin both absorb green most, so green light above red light means ink. Blood is red
    too, but lets a third of green and blue light through; red ink lets a fifth through, and as much blue as
    green.
    """
    red, green, blue = np.moveaxis(relative, 2, 0)
    most, chroma = relative.max(axis=2), relative.max(axis=2) - relative.min(axis=2)
    over_tissue = (blue > 1.8 * red) & (blue > 1.8 * green) & (blue > red + 0.12)
    return (
        ((green > red + 0.10) & (green > blue + 0.04), (green > red + 0.03) & (green > blue)),
        (
            ((green > red - 0.02) & (blue > red + 0.25)) | over_tissue,
            (green > red - 0.02) & (blue > red + 0.04),
        ),
        ((red > green + 0.6) & (np.abs(green - blue) < 0.12), (red > green + 0.3) & (blue < green + 0.1)),
        ((most < 0.35) & (chroma < 0.12), (most < 0.75) & (chroma < 0.06)),
    )


def _pen(relative: Picture, mpp: float) -> Mask:
    """Find ink marks on colours relative to glass, float32[h,w,3]."""
    found = np.zeros(relative.shape[:2], np.uint8)
    for certain, possible in _ink_hues(relative):
        mark = _without_specks(certain, _PEN_LEAST_MM2, mpp)
        if mark.any():
            found |= _grown(mark, possible | mark)
    rim = 2 * max(1, round(_PEN_RIM_UM / mpp)) + 1
    return np.asarray(cv2.dilate(found, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim))) > 0)


def _tidied(tissue: Mask, mpp: float) -> Mask:
    """Close small gaps, fill small holes (lumina, fat cells) and drop specks."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_CLOSE, disc) > 0
    filled = ~_without_specks(~closed, _HOLE_MOST_MM2, mpp)
    return _without_specks(filled, _TISSUE_LEAST_MM2, mpp)


def _grown(certain: Mask, possible: Mask) -> Mask:
    """Return the connected patches of `possible` that contain something `certain`."""
    _, labels = cv2.connectedComponents(possible.astype(np.uint8), connectivity=8)
    kept = np.unique(labels[certain & possible])
    return np.isin(labels, kept[kept > 0])


def _without_specks(mask: Mask, least_mm2: float, mpp: float) -> Mask:
    """Drop connected patches smaller than `least_mm2` on a mask whose pixels are `mpp` µm wide."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * (mpp / 1000) ** 2 >= least_mm2
    large[0] = False
    return np.asarray(large[labels])

"""Where the regions of a slide are: anchors among its tiles, how far each reaches, and its box. Torch-free.

Published: k-means over grid positions for each of six region sizes, by scikit-learn, to the letter.
Corrected: k-means of our own at a few scales; a region is as large as the tissue around its anchor, so that
together they cover a slide of any size. Neither makes an array of tiles by tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError
from histgen_lib.models.fgcr.config import MOST_REGIONS, FgcrConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PUBLISHED_SCALES = (36, 64, 100, 144, 256, 400)
"""Tiles of a region at each scale (npk in the authors' code)."""

_SEED, _ROUNDS, _STARTS = 9, 10, 10
"""The authors' k-means; ten starts were scikit-learn's default then."""

_MOST_ROUNDS = 25
_SAMPLE = 4096
"""Tiles from which centres are found at most; on a larger slide all tiles then move them once more."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Regions:
    """The R regions of a slide of N tiles, 1 ≤ R ≤ 25.

    rows       int64[R], each one's anchor among the tiles; corrected: all different
    scales     int64[R], which scale it belongs to, 0 for the finest
    radius     float32[R], how far it reaches, in tiles
    soft_mask  float32[R, N], how much each tile belongs to it: exp(−r²/(2·radius²)), r in tiles
    boxes      int32[R, 4], x, y, width and height in level-0 px, within the tiles' extent
    """

    rows: Ints
    scales: Ints
    radius: Floats
    soft_mask: Floats
    boxes: npt.NDArray[np.int32]


def find_regions(xy: npt.NDArray[Any], span_px: float, config: FgcrConfig) -> Regions:
    """Choose the regions of a slide. The same tiles give the same regions; corrected: in any order.

    `xy` [N, 2], top-left corners in level-0 px, N ≥ 1; `span_px` a tile's side. Raises as `published_anchors`
    for a published network.
    """
    corners = np.asarray(xy, dtype=np.float64)
    places = (corners - corners.min(axis=0)) / span_px
    if config.corrected:
        rows, scales, radius = _corrected(places, config.anchors_a_scale)
        half = radius * (math.sqrt(3) / 2)  # `_reach` of a square is its side / sqrt(3)
    else:
        places = np.rint(places)
        rows, scales = published_choice(places, config.num_anchors)
        radius = np.sqrt(np.asarray(PUBLISHED_SCALES, dtype=np.float64)[scales])
        half = radius / 2
    return Regions(
        rows,
        scales,
        radius.astype(np.float32),
        soft_mask(places, rows, radius),
        _boxes(corners, rows, half, span_px),
    )


def soft_mask(places: npt.NDArray[Any], rows: Ints, radius: npt.NDArray[Any]) -> Floats:
    """Return how much each tile belongs to each region: float32[R, N], from grid positions [N, 2]."""
    squares = np.stack([_squares(places, places[row]) for row in rows])
    shares: Floats = np.exp(-squares / (2 * np.asarray(radius)[:, None] ** 2)).astype(np.float32)
    return shares


def published_anchors(places: npt.NDArray[Any], npk: int) -> Ints:
    """Return the rows of the anchors of one region size: int64[⌊N/npk⌋+1], at most N.

    `places` [N, 2], grid positions. Raises FatalError("extra-train-missing") without scikit-learn.
    """
    points = np.asarray(places, dtype=np.float64)
    count = min(len(points) // npk + 1, len(points))
    means = _scikit_k_means()(count, random_state=_SEED, max_iter=_ROUNDS, n_init=_STARTS).fit(points)
    return np.array([_squares(points, centre).argmin() for centre in means.cluster_centers_], dtype=np.int64)


def published_choice(places: npt.NDArray[Any], most: int = MOST_REGIONS) -> tuple[Ints, Ints]:
    """Return rows and scales of all anchors, int64[R] each, cut to `most` as the published loader does.

    A scale's share is rounded up, and what is then too many is taken from the first.
    """
    found = [published_anchors(places, npk) for npk in PUBLISHED_SCALES]
    counts = np.array([len(rows) for rows in found])
    if counts.sum() > most:
        counts = np.ceil(most / counts.sum() * counts).astype(np.int64)
        counts[0] = max(counts[0] - (counts.sum() - most), 0)
    rows = np.concatenate([rows[:count] for rows, count in zip(found, counts, strict=True)])
    return rows[:most], np.repeat(np.arange(len(counts)), counts)[:most]


def _scikit_k_means() -> Any:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise FatalError(
            "extra-train-missing",
            "The anchors of a published FGCR need scikit-learn, which is not installed.",
            hint="pip install 'histgen[train]', or use a network in corrected mode.",
        ) from error
    return KMeans


def _corrected(places: npt.NDArray[np.float64], a_scale: tuple[int, ...]) -> tuple[Ints, Ints, Any]:
    """Return rows, scales and radii of the regions of a slide."""
    order = np.lexsort(places.T)
    sorted_places = places[order]
    counts = _shared_out(min(len(places), sum(a_scale)), a_scale)
    taken = np.zeros(len(places), dtype=bool)
    rows, radii = [], []
    for count in filter(None, counts):
        centres, reach = _clusters(sorted_places, count)
        rows += [_nearest_free(sorted_places, centre, taken) for centre in centres]
        radii.append(reach)
    return order[rows], np.repeat(np.arange(len(counts)), counts), np.concatenate(radii)


def _shared_out(total: int, shares: tuple[int, ...]) -> list[int]:
    """Divide a number in proportion; what remains goes to the largest remainders, the first of equals."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(one) for one in exact]
    by_remainder = sorted(range(len(shares)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def _nearest_free(places: npt.NDArray[np.float64], centre: Any, taken: npt.NDArray[np.bool_]) -> int:
    """Take the tile nearest to a centre that no other region has."""
    row = int(np.where(taken, np.inf, _squares(places, centre)).argmin())
    taken[row] = True
    return row


def _clusters(places: npt.NDArray[np.float64], count: int) -> tuple[Any, Any]:
    """Return `count` centres [count, 2], and how far the tiles nearest to each reach from it."""
    sample = places[_spread(len(places))] if len(places) > _SAMPLE else places
    centres = _spread_out(sample, count)
    nearest = np.full(len(sample), -1)
    for _ in range(_MOST_ROUNDS):
        before, (nearest, _far) = nearest, _assigned(sample, centres)
        if np.array_equal(before, nearest):
            break
        centres = _moved(sample, centres, nearest)
    if sample is not places:
        centres = _moved(places, centres, _assigned(places, centres)[0])
    return centres, _reach(*_assigned(places, centres), count)


def _reach(nearest: Ints, squares: npt.NDArray[np.float64], count: int) -> Any:
    """Return the radius of each cluster: of a square of tiles, one tile included, its side / sqrt(3)."""
    sizes = np.bincount(nearest, minlength=count)
    spread = np.bincount(nearest, squares, minlength=count) / np.maximum(sizes, 1)
    return np.sqrt(2 * (spread + 1 / 6))


def _spread(count: int) -> Ints:
    """Return `_SAMPLE` rows of `count`, evenly spread yet in no step with the columns of a grid."""
    shares = (np.arange(_SAMPLE) * _GOLDEN) % 1
    return np.unique((shares * count).astype(np.int64))


def _spread_out(places: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return `count` of the places: the one nearest to their mean, then always the farthest from all."""
    chosen = [places[_squares(places, places.mean(axis=0)).argmin()]]
    distance = _squares(places, chosen[0])
    while len(chosen) < count:
        chosen.append(places[distance.argmax()])
        distance = np.minimum(distance, _squares(places, chosen[-1]))
    return np.stack(chosen)


def _assigned(places: npt.NDArray[np.float64], centres: Any) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return the nearest centre of each place, and the square of its distance."""
    squares = np.stack([_squares(places, centre) for centre in centres])
    nearest = squares.argmin(axis=0)
    return nearest, squares[nearest, np.arange(len(places))]


def _moved(places: npt.NDArray[np.float64], centres: Any, nearest: Ints) -> Any:
    """Move each centre to the mean of its places; one without any stays."""
    sizes = np.bincount(nearest, minlength=len(centres))
    sums = np.stack([np.bincount(nearest, axis, minlength=len(centres)) for axis in places.T], axis=1)
    return np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)


def _squares(places: npt.NDArray[Any], centre: Any) -> npt.NDArray[np.float64]:
    away = places - centre
    squares: npt.NDArray[np.float64] = (away * away).sum(axis=1)
    return squares


def _boxes(
    corners: npt.NDArray[np.float64], rows: Ints, half: npt.NDArray[np.float64], span_px: float
) -> npt.NDArray[np.int32]:
    """Return a square of `half` tiles to each side around each anchor's middle, cut at the tiles' extent."""
    middle, reach = corners[rows] + span_px / 2, half[:, None] * span_px
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0) + span_px)
    first = np.clip(np.rint(middle - reach), low, high - 1)
    last = np.clip(np.rint(middle + reach), first + 1, high)
    return np.concatenate([first, last - first], axis=1).astype(np.int32)

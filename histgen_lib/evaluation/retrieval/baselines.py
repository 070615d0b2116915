"""Searches without any training, to compare with: mean-pooled features, and sets of patches.

The patch set is our own reading of Yottixel (Kalra et al., Medical Image Analysis 2020): a mosaic of few
patches that stand for a slide, each as a barcode, and the median of the smallest distances between two
mosaics. Its first clustering is by tile features, where Yottixel clusters colours: a bag has no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import FatalError

KINDS = 9
"""Clusters by feature, as Yottixel's by colour."""
SHARE = 0.15
"""Of each such cluster's patches, how many stand for it, spread over the slide."""
_SEED = 9

Floats = NDArray[np.float32]
Barcodes = NDArray[np.bool_]


def mean_pooled(bags: Iterable[NDArray[Any]]) -> Floats:
    """Return the mean feature of each slide [N_i, D], as unit vectors float32[n, D]."""
    means = np.stack([np.asarray(features, dtype=np.float64).mean(axis=0) for features in bags])
    lengths = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return np.asarray(means / lengths, dtype=np.float32)


def mosaic(features: NDArray[Any], xy: NDArray[Any]) -> NDArray[np.int64]:
    """Choose the patches that stand for a slide of features [N, D] at corners [N, 2]: rows int64[M], M ≥ 1.

    Tiles are clustered by their features; in each cluster the places are clustered, and the tile nearest to
    each centre is taken. Raises FatalError("extra-train-missing") without scikit-learn.
    """
    tiles = np.asarray(features, dtype=np.float64)
    places = np.asarray(xy, dtype=np.float64)
    kind_of, _ = _clustered(tiles, KINDS)
    chosen = []
    for kind in np.unique(kind_of):
        rows = np.flatnonzero(kind_of == kind)
        _, centres = _clustered(places[rows], max(1, round(SHARE * len(rows))))
        away = np.square(places[rows][None] - centres[:, None]).sum(axis=2)
        chosen.append(rows[away.argmin(axis=1)])
    return np.unique(np.concatenate(chosen))


def barcodes(features: NDArray[Any]) -> Barcodes:
    """Return for each patch [M, D] where its feature rises from one number to the next: bool[M, D − 1]."""
    return np.asarray(np.diff(np.asarray(features, dtype=np.float64), axis=1) > 0)


def patch_set_scores(queries: Sequence[Barcodes], gallery: Sequence[Barcodes]) -> Floats:
    """Compare sets of patches bool[M_i, B] with sets: float32[Q, G], higher is more alike.

    Minus the median, over the query's patches, of the smallest Hamming distance to a patch of the other set.
    """
    signs = [np.where(codes, 1, -1).astype(np.float32) for codes in gallery]
    starts = np.cumsum([0, *map(len, signs)])[:-1]
    stacked = np.concatenate(signs)
    return np.stack([_one_query(np.where(codes, 1, -1), stacked, starts) for codes in queries])


def _one_query(codes: NDArray[Any], gallery: Floats, starts: NDArray[np.int64]) -> Floats:
    distances = (gallery.shape[1] - codes.astype(np.float32) @ gallery.T) / 2
    smallest = np.minimum.reduceat(distances, starts, axis=1)
    return np.asarray(-np.median(smallest, axis=0), dtype=np.float32)


def _clustered(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each point's cluster and the centres, at most `count` of them."""
    if count == 1:
        return np.zeros(len(points), dtype=np.int64), points.mean(axis=0, keepdims=True)
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise FatalError(
            "extra-train-missing",
            "The patch-set search needs scikit-learn, which is not installed.",
            hint="pip install 'histgen[train]'",
        ) from error
    different = len(np.unique(points, axis=0))
    means = KMeans(min(count, different), random_state=_SEED, n_init=1).fit(points)
    return np.asarray(means.labels_, dtype=np.int64), np.asarray(means.cluster_centers_)

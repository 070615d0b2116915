"""Is this slide like the slides the model was trained on? Numpy only: training fits it, the pipeline asks it.

Tile features are whitened by the training tiles' mean and covariance. Two scores are known; both are medians
over the slide's tiles, so that a few odd tiles (pen, folds) do not decide:

neighbour-median     distance of a tile to the nearest of a few hundred training tiles kept as anchors. Sees
                     weak features as well, a network's frequent answer to unknown tissue: they lie near the
                     mean, where no tissue is.
mahalanobis-median   root-mean-square whitened coordinate of a tile; blind to weak features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from histgen_lib.errors import FatalError
from histgen_lib.files import atomic_path

DomainMethod = Literal["mahalanobis-median", "neighbour-median"]
_CHUNK_TILES = 1024
_RIDGE = 1.0
_TINY = 1e-12


@dataclass(frozen=True)
class DomainModel:
    """Statistics of the training tiles.

    mean       float32[D]
    whitening  float32[D, K]: (feature - mean) @ whitening is uncorrelated, of about unit variance
    anchors    float32[M, K]: whitened training tiles, spread over the training world
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    anchors: NDArray[np.float32]
    method: DomainMethod = "neighbour-median"

    @classmethod
    def fit(
        cls,
        features: Sequence[NDArray[np.floating]],
        *,
        method: DomainMethod = "neighbour-median",
        variance_kept: float = 0.999,
        anchors: int = 768,
        seed: int = 0,
    ) -> Self:
        """Fit on one array [N, D] per training slide. Deterministic for a seed."""
        tiles = np.concatenate([np.asarray(f, dtype=np.float64) for f in features])
        mean = tiles.mean(axis=0)
        whitening = _whitening(tiles - mean, variance_kept)
        whitened = ((tiles - mean) @ whitening).astype(np.float32)
        return cls(
            mean=mean.astype(np.float32),
            whitening=whitening.astype(np.float32),
            anchors=_spread(whitened, anchors, np.random.default_rng(seed)),
            method=method,
        )

    def score(self, features: NDArray[np.floating]) -> float:
        """Say how strange one slide's tiles [N, D] are; compare with config.json's "domain"."threshold"."""
        centred = np.asarray(features, dtype=np.float32) - self.mean
        whitened = np.asarray(centred @ self.whitening, dtype=np.float32)
        if self.method == "mahalanobis-median":
            distances = np.sqrt(np.mean(np.square(whitened), axis=1))
        else:
            distances = _nearest(whitened, self.anchors) / np.sqrt(whitened.shape[1])
        return float(np.median(distances))

    def save(self, path: Path) -> None:
        """Write one safetensors file (tensors mean, whitening, anchors; metadata method)."""
        tensors = {"mean": self.mean, "whitening": self.whitening, "anchors": self.anchors}
        with atomic_path(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(value) for name, value in tensors.items()},
                temporary,
                metadata={"method": self.method},  # one key: several would be written in any order
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. FatalError("model-domain-unreadable") when it is not such a file."""
        try:
            with safe_open(path, framework="numpy") as tensors:
                method = (tensors.metadata() or {}).get("method", "neighbour-median")
                parts = {name: tensors.get_tensor(name) for name in ("mean", "whitening", "anchors")}
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(path) from error
        if method not in get_args(DomainMethod):
            raise _unreadable(path)
        return cls(**parts, method=cast(DomainMethod, method))


def domain_threshold(scores: Sequence[float], *, quantile: float = 0.99, margin: float = 1.15) -> float:
    """Choose a threshold from scores of held-out slides of the training world: `quantile` × `margin`."""
    return float(np.quantile(np.asarray(scores, dtype=np.float64), quantile) * margin)


def _whitening(centred: NDArray[np.float64], variance_kept: float) -> NDArray[np.float64]:
    """Find the principal axes that hold `variance_kept` of the variance, of about unit variance: [D, K].

    The mean variance is added to that of each axis: axes of mere noise must not drown the others, or
    a tile without any features would be nearer to the anchors than training tiles are to each other.
    """
    covariance = centred.T @ centred / max(len(centred) - 1, 1)
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1].clip(min=0), axes[:, ::-1]
    share = np.cumsum(values) / max(values.sum(), _TINY)
    kept = min(int(np.searchsorted(share, variance_kept)) + 1, len(values))
    damped = np.maximum(values[:kept] + _RIDGE * values.mean(), _TINY)
    return np.asarray(axes[:, :kept] / np.sqrt(damped), dtype=np.float64)


def _spread(whitened: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Choose `count` tiles, each farthest from those before (from a random pool): rare tissue is kept too."""
    pool = whitened[rng.permutation(len(whitened))[: 16 * count]]
    if len(pool) <= count:
        return pool
    chosen = [0]
    distance = np.linalg.norm(pool - pool[0], axis=1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(pool - pool[chosen[-1]], axis=1))
    return np.ascontiguousarray(pool[chosen])


def _nearest(points: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each point [N, K] to its nearest anchor, in chunks so that memory stays bounded."""
    squares = np.einsum("mk,mk->m", anchors, anchors)
    nearest = np.empty(len(points), dtype=np.float32)
    for start in range(0, len(points), _CHUNK_TILES):
        part = points[start : start + _CHUNK_TILES]
        squared = np.einsum("nk,nk->n", part, part)[:, None] - 2 * part @ anchors.T + squares
        nearest[start : start + _CHUNK_TILES] = np.sqrt(squared.min(axis=1).clip(min=0))
    return nearest


def _unreadable(path: Path) -> FatalError:
    return FatalError(
        "model-domain-unreadable",
        f"{path} does not hold the statistics of a training world.",
        hint="Copy the whole model folder again, or train the model anew.",
    )

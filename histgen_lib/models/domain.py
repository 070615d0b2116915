"""Is this slide like the slides the model was trained on? NumPy only: training fits it, the pipeline uses it.

Three views of a slide's tile features, each a positive number that grows with strangeness:

tissue     distance of tiles to their nearest training tiles, at the slide's nearest quarter: a slide of the
           training domain always has some ordinary tissue, so even its best tiles are informative
slide      Mahalanobis distance of the mean and spread of all its tiles from those of training slides
residual   share of a tile's deviation in directions in which training tiles hardly vary (median over tiles),
           as in virtual-logit matching (Wang et al. 2022)

The logarithm of each is standardised on training slides that were held out from the other statistics; the
score is the mean of the three: 0 for a typical slide, in standard deviations. A single view is fooled more
easily.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from histgen_lib.errors import FatalError
from histgen_lib.files import atomic_path

METHOD = "tissue-slide-residual"

Floats = NDArray[np.float32]

_LEAST_THRESHOLD = 2.0
_MOST_ROOM = 0.5
_NEAREST, _QUANTILE = 3, 0.25
_VARIANCE_KEPT = 0.95
_TILE_RIDGE, _SLIDE_RIDGE = 1.0, 0.3
_HELD_OUT_EVERY = 4
_CHUNK_TILES = 512
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class DomainModel:
    """Statistics of the training slides; features have width D.

    mean             float32[D] of training tiles
    whitening        float32[D, D], to uncorrelated values of about unit variance
    residual         float32[D, K], axes beyond those that hold 95 % of the variance
    anchors          float32[M, D], whitened training tiles
    slide_mean       float32[2D], of (mean, standard deviation) over the tiles of a slide
    slide_whitening  float32[2D, 2D]
    usual            float32[2, 3], mean and standard deviation of the logarithms of the three views
    """

    mean: Floats
    whitening: Floats
    residual: Floats
    anchors: Floats
    slide_mean: Floats
    slide_whitening: Floats
    usual: Floats

    @property
    def method(self) -> str:
        """Name of the score, for provenance."""
        return METHOD

    @classmethod
    def fit(cls, features: Sequence[NDArray[Any]], *, anchors: int = 3072, seed: int = 0) -> Self:
        """Fit on one array [N, D] per training slide; a few hundred are enough. Deterministic for a seed."""
        slides = [np.asarray(f, dtype=np.float64) for f in features]
        held_out = slides[::_HELD_OUT_EVERY] if len(slides) >= 2 * _HELD_OUT_EVERY else slides
        fitted = (
            [s for i, s in enumerate(slides) if i % _HELD_OUT_EVERY] if held_out is not slides else slides
        )
        tiles = np.concatenate(fitted)
        mean, axes, values = _principal(tiles)
        whitening = axes / np.sqrt(values + _TILE_RIDGE * values.mean() + _TINY)
        kept = int(np.searchsorted(np.cumsum(values) / (values.sum() + _TINY), _VARIANCE_KEPT)) + 1
        chosen = np.sort(np.random.default_rng(seed).permutation(len(tiles))[:anchors])
        slide_mean, slide_axes, slide_values = _principal(np.stack([_summary(s) for s in fitted]))
        parts = {
            "mean": mean,
            "whitening": whitening,
            "residual": axes[:, min(kept, len(values) - 1) :],
            "anchors": (tiles[chosen] - mean) @ whitening,
            "slide_mean": slide_mean,
            "slide_whitening": slide_axes
            / np.sqrt(slide_values + _SLIDE_RIDGE * slide_values.mean() + _TINY),
            "usual": np.array([[0.0] * 3, [1.0] * 3]),
        }
        bare = cls(**{name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()})
        return bare._standardised(held_out)

    def score(self, features: NDArray[Any]) -> float:
        """Return how strange one slide's tiles [N, D] are; config.json has the threshold for it."""
        typical, spread = self.usual
        return float(np.mean((self._views(features) - typical) / spread))

    def save(self, path: Path) -> None:
        """Write a safetensors file with one tensor per field."""
        with atomic_path(path) as temporary:
            # Only one metadata key: the order of several is undefined.
            save_file(asdict(self), temporary, metadata={"method": METHOD})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. FatalError("model-domain-unreadable") if the file is anything else."""
        try:
            with safe_open(path, framework="numpy") as tensors:
                return cls(**{field.name: tensors.get_tensor(field.name) for field in fields(cls)})
        except (SafetensorError, OSError, ValueError) as error:
            raise FatalError(
                "model-domain-unreadable",
                f"{path} does not contain the statistics of a training domain.",
                hint="Fetch the model again, or retrain it.",
            ) from error

    def _standardised(self, slides: Sequence[NDArray[np.float64]]) -> Self:
        views = np.stack([self._views(s) for s in slides])
        usual = np.stack([views.mean(axis=0), views.std(axis=0) + 0.05])
        return type(self)(**(asdict(self) | {"usual": usual.astype(np.float32)}))

    def _views(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the logarithms of tissue, slide and residual strangeness: float64[3]."""
        tiles = np.asarray(features, dtype=np.float32)
        centred = tiles - self.mean
        tissue = np.quantile(
            _nearest(np.asarray(centred @ self.whitening, dtype=np.float32), self.anchors), _QUANTILE
        )
        summary = (_summary(tiles) - self.slide_mean) @ self.slide_whitening
        outside = np.linalg.norm(centred @ self.residual, axis=1)
        share = np.median(outside / (np.linalg.norm(centred, axis=1) + _TINY))
        views = np.array([tissue, np.sqrt(np.mean(np.square(summary))), share], dtype=np.float64)
        return np.asarray(np.log(views + _TINY))


def domain_threshold(scores: Sequence[float], *, quantile: float = 1.0, margin: float = 1.5) -> float:
    """Choose a threshold from scores of held-out slides of the training domain.

    Their `quantile` × `margin`, but at most half a standard deviation above the quantile, and at least 2.
    """
    highest = float(np.quantile(np.asarray(scores, dtype=np.float64), quantile))
    return max(_LEAST_THRESHOLD, min(highest * margin, highest + _MOST_ROOM))


def _summary(tiles: NDArray[Any]) -> NDArray[np.float64]:
    """Return mean and standard deviation over tiles [N, D]: float64[2D]."""
    wide = np.asarray(tiles, dtype=np.float64)
    return np.concatenate([wide.mean(axis=0), wide.std(axis=0)])


def _principal(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Find mean [D], principal axes [D, D] and variances [D] of rows [N, D], the largest variance first."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    values, axes = np.linalg.eigh(centred.T @ centred / max(len(rows) - 1, 1))
    return mean, axes[:, ::-1], values[::-1].clip(min=0)


def _nearest(points: Floats, anchors: Floats) -> Floats:
    """Return each point's mean distance to its three nearest anchors [M, D], in chunks to bound memory."""
    count = min(_NEAREST, len(anchors))
    squares = np.einsum("md,md->m", anchors, anchors)
    found = np.empty(len(points), dtype=np.float32)
    for start in range(0, len(points), _CHUNK_TILES):
        part = points[start : start + _CHUNK_TILES]
        squared = np.einsum("nd,nd->n", part, part)[:, None] - 2 * part @ anchors.T + squares
        nearest = np.partition(squared, count - 1, axis=1)[:, :count]
        found[start : start + _CHUNK_TILES] = np.sqrt(nearest.clip(min=0)).mean(axis=1)
    return found

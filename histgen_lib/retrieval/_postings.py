"""Which entries may be alike, found without comparing all: regions filed by their nearest centroid.

The approximate first stage of late interaction as in PLAID (Santhanam et al., CIKM 2022): k-means over a
sample of all regions; each region is filed under its nearest centroid; a query's vectors look only into the
files nearest to them, and an entry's score is estimated from where its regions were met.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from histgen_lib.retrieval._port import Floats

Codes = npt.NDArray[np.uint16]
Slots = npt.NDArray[np.int64]

_ROUNDS = 5
_SAMPLE = 12
"""Vectors of the sample for each centroid."""
_CHUNK = 16_384
_LOOKED_INTO = 4
"""Of the groups of centroids, those in which a region's nearest one is looked for."""
_FILES = 64
"""Files that a query's vector looks into at most."""
FEW = 4
"""So few vectors are compared with the regions that they meet, not only with the centroids of these."""
_MOST_EXACT = 32_000
"""Regions that so few vectors are compared with, all together."""
_MOST_ROUGH = 100_000
"""Regions that each of more vectors meets."""


class Codebook:
    """Centroids of unit length float32[K, d], in groups, so that not all are compared with each region."""

    def __init__(self, sample: Floats, count: int, rng: np.random.Generator) -> None:
        self.centroids = _centroids(sample, count, rng)
        self._heads = _centroids(self.centroids, max(1, round(math.sqrt(count))), rng)
        nearest = (self.centroids @ self._heads.T).argmax(axis=1)
        self._members = [np.flatnonzero(nearest == head) for head in range(len(self._heads))]

    def codes(self, vectors: Floats) -> Codes:
        """Return the number of each vector's nearest centroid, or of one as good as that."""
        parts = [self._codes(vectors[start : start + _CHUNK]) for start in range(0, len(vectors), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def _codes(self, vectors: Floats) -> Codes:
        near = vectors @ self._heads.T
        looked = min(_LOOKED_INTO, len(self._heads))
        heads = np.argpartition(-near, looked - 1, axis=1)[:, :looked]
        best = np.full(len(vectors), -np.inf, np.float32)
        codes = np.zeros(len(vectors), np.uint16)
        for head, members in enumerate(self._members):
            rows = np.flatnonzero((heads == head).any(axis=1))
            if len(rows) and len(members):
                cosines = vectors[rows] @ self.centroids[members].T
                first = cosines.argmax(axis=1)
                value = cosines[np.arange(len(rows)), first]
                better = value > best[rows]
                best[rows[better]] = value[better]
                codes[rows[better]] = members[first[better]]
        return codes


class Postings:
    """For each centroid, where regions filed under it are. `slots` int64: the entry of each region."""

    def __init__(self, codebook: Codebook, codes: Codes, slots: Slots) -> None:
        self._codebook = codebook
        self._regions: Slots = np.argsort(codes, kind="stable")
        self._slots = slots[self._regions]
        self._starts = np.searchsorted(codes[self._regions], np.arange(len(codebook.centroids) + 1))
        self._lengths = np.diff(self._starts)

    def estimate(self, queries: Floats, entries: int, regions: npt.NDArray[np.float16]) -> Floats:
        """Return an estimate of MaxSim float32[entries]. `regions` float16[N, d], by region."""
        cosines = queries @ self._codebook.centroids.T
        look = self._exactly if len(queries) <= FEW else self._roughly
        most = _MOST_EXACT // len(queries) if len(queries) <= FEW else _MOST_ROUGH
        total = np.zeros(entries, np.float32)
        best = np.empty(entries, np.float32)
        for query, values in zip(queries, cosines, strict=True):
            files = self._nearest(values, most)
            slots, found = look(files, values, query, regions)
            best.fill(values[files[0]])  # what is not met has nothing better
            best[slots] = found
            total += best
        return total / np.float32(len(queries))

    def _nearest(self, values: Floats, most: int) -> Slots:
        """Return the files nearest to a query that together have `most` regions or less, the best last."""
        count = min(_FILES, len(values))
        files = np.argpartition(-values, count - 1)[:count]
        files = files[np.argsort(-values[files])]
        within = max(1, int(np.searchsorted(np.cumsum(self._lengths[files]), most, side="right")))
        return files[:within][::-1]

    def _roughly(self, files: Slots, values: Floats, *_: object) -> tuple[Slots, Floats]:
        """Return the entries met in these files with their centroids' cosines, rising."""
        return self._listed(self._slots, files), np.repeat(values[files], self._lengths[files])

    def _exactly(
        self, files: Slots, _: Floats, query: Floats, regions: npt.NDArray[np.float16]
    ) -> tuple[Slots, Floats]:
        """Return the entries met in these files with their regions' own cosines, rising."""
        found: Floats = as_floats(regions[self._listed(self._regions, files)]) @ query
        order = np.argsort(found)
        return self._listed(self._slots, files)[order], found[order]

    def _listed(self, listed: Slots, files: Slots) -> Slots:
        return np.concatenate([listed[self._starts[file] : self._starts[file + 1]] for file in files])


def centroids_for(regions: int) -> int:
    """Return how many centroids to file so many regions under."""
    return int(min(16_384, max(64, 2.6 * math.sqrt(regions))))


def sample_size(centroids: int) -> int:
    """Return how many regions to learn so many centroids from."""
    return _SAMPLE * centroids


def as_floats(halves: npt.NDArray[np.float16]) -> Floats:
    """Convert to float32, exactly: five times as fast as NumPy, which takes the halves one by one.

    For finite values. The exponent's bias is 15 in one format and 127 in the other.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the sign was copied into the bits above the exponent
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


def _centroids(sample: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return `count` centroids of unit length by spherical k-means (Dhillon and Modha, 2001)."""
    centroids = sample[rng.choice(len(sample), min(count, len(sample)), replace=False)]
    for _ in range(_ROUNDS):
        nearest = np.concatenate(
            [
                (sample[start : start + _CHUNK] @ centroids.T).argmax(axis=1)
                for start in range(0, len(sample), _CHUNK)
            ]
        )
        order = np.argsort(nearest, kind="stable")
        used, first = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order], first, axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = sample[rng.choice(len(sample), len(centroids))]  # for those that nothing is near to
        centroids[used] = sums / np.maximum(lengths, np.float32(1e-9))
    return centroids

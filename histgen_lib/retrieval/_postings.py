"""Which entries may be alike, found without comparing all: regions filed by their nearest centroid.

The approximate first stage of late interaction as in PLAID (Santhanam et al., CIKM 2022): k-means over a
sample of all regions; each region is filed under its nearest centroid; a query's vectors look only into the
files nearest to them, and an entry's score is estimated from where its regions were met.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.retrieval._port import Floats

Codes = npt.NDArray[np.uint16]
Slots = npt.NDArray[np.int64]

_ROUNDS = 5
_SAMPLE = 12
"""Vectors of the sample for each centroid."""
_CHUNK, _CODED = 4_096, 65_536
"""Vectors compared in one go, with all centroids and with those of some groups."""
_LOOKED_INTO = 4
"""Of the groups of centroids, those in which a region's nearest one is looked for."""
_FILES = 64
"""Files that a query's vector looks into at most."""
_LEAST_SPAN = 0.5
"""Numbers of unit vectors that a byte can hold, at least; larger ones, of few regions, are cut."""
FEW = 2
"""So few vectors are compared with the regions that they meet, not only with the centroids of these."""
_ONE_BY_ONE = 8
"""More vectors than that are looked up together where they are much alike: it takes less time."""
_FIRST, _IN_ONE_GO = 8_000, 64_000
"""Regions that each of few vectors meets first, and those that it meets at a time after that."""
_MOSTLY = 0.999
"""So many regions are no further from their centroids than those in other files are thought to be."""
_MOST = 50_000
"""Regions that each of more vectors meets."""


class Codebook:
    """Centroids of unit length float32[K, d], in groups, so that not all are compared with each region."""

    def __init__(self, sample: Floats, count: int, rng: np.random.Generator) -> None:
        self.centroids = _centroids(sample, count, rng)
        self._heads = _centroids(self.centroids, max(1, round(math.sqrt(count))), rng)
        self.groups = (self.centroids @ self._heads.T).argmax(axis=1)
        self._members = [np.flatnonzero(self.groups == head) for head in range(len(self._heads))]

    def codes(self, vectors: Floats) -> Codes:
        """Return the number of each vector's nearest centroid, or of one as good as that."""
        parts = [self._codes(vectors[start : start + _CODED]) for start in range(0, len(vectors), _CODED)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def _codes(self, vectors: Floats) -> Codes:
        near = vectors @ self._heads.T
        looked = min(_LOOKED_INTO, len(self._heads))
        heads = np.argpartition(-near, looked - 1, axis=1)[:, :looked].ravel()
        order = np.argsort(heads, kind="stable")
        bounds = np.searchsorted(heads[order], np.arange(len(self._heads) + 1))
        best = np.full(len(vectors), -np.inf, np.float32)
        codes = np.zeros(len(vectors), np.uint16)
        for members, start, end in zip(self._members, bounds[:-1], bounds[1:], strict=True):
            if start < end and len(members):
                rows = order[start:end] // looked
                cosines = vectors[rows] @ self.centroids[members].T
                first = cosines.argmax(axis=1)
                value = cosines[np.arange(len(rows)), first]
                better = value > best[rows]
                best[rows[better]] = value[better]
                codes[rows[better]] = members[first[better]]
        return codes


class Postings:
    """For each centroid, the regions filed under it, as bytes, one after the other, and whose they are.

    `codes` uint16[N], `slots` int64[N]: the file and the entry of each of the `regions` float16[N, d].
    """

    def __init__(
        self, codebook: Codebook, codes: Codes, slots: Slots, regions: npt.NDArray[np.float16]
    ) -> None:
        self._codebook = codebook
        order = np.argsort(codes, kind="stable")
        self._slots = slots[order]
        self._starts = np.searchsorted(codes[order], np.arange(len(codebook.centroids) + 1))
        self._lengths = np.diff(self._starts)
        self._scale = np.float32(127.0 / max(float(np.abs(codebook.centroids).max()), _LEAST_SPAN))
        self._bytes = np.empty(regions.shape, np.int8)
        for start in range(0, len(order), _CODED):
            some = as_floats(regions[order[start : start + _CODED]]) * self._scale
            self._bytes[start : start + _CODED] = np.clip(np.rint(some), -127, 127)

    def estimate(self, queries: Floats, allowed: npt.NDArray[np.bool_], depth: int) -> Floats:
        """Return an estimate of MaxSim float32[entries], hardly too low for `FEW` vectors or less.

        `allowed` bool[entries]: which of them count; only the best `depth` of these are of interest.
        """
        cosines = queries @ self._codebook.centroids.T
        if len(queries) <= FEW:
            found = [
                self._closely(q, values, allowed, depth) for q, values in zip(queries, cosines, strict=True)
            ]
            best: Floats = np.mean(found, axis=0)
            return best
        total = np.zeros(len(allowed), np.float32)
        for alike in self._alike(cosines):
            share = np.float32(len(alike) / len(queries))
            total += self._roughly(share * cosines[alike].mean(axis=0), len(total))
        return total

    def interact(self, queries: Floats, codes: Codes, starts: Slots) -> Floats:
        """Return MaxSim as if each region were the centroid of its file. `codes`: stacked; `starts` int64."""
        cosines = queries @ self._codebook.centroids.T
        best = np.maximum.reduceat(np.take(cosines, codes, axis=1), starts, axis=1)
        estimates: Floats = best.mean(axis=0)
        return estimates

    def _alike(self, cosines: Floats) -> list[Slots]:
        """Return the numbers of query vectors; of many, those of one group of centroids together."""
        nearest = cosines.argmax(axis=1)
        groups = self._codebook.groups[nearest] if len(nearest) > _ONE_BY_ONE else np.arange(len(nearest))
        return [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def _roughly(self, values: Floats, entries: int) -> Floats:
        """Return, for each entry, the cosine of the nearest centroid that it was met under.

        `values` float32[K]: the cosines of the centroids. What is not met is as near as the last of these.
        """
        count = min(_FILES, len(values))
        files = np.argpartition(-values, count - 1)[:count]
        files = files[np.argsort(-values[files])]
        within = max(1, int(np.searchsorted(np.cumsum(self._lengths[files]), _MOST, side="right")))
        files = files[:within][::-1]
        best = np.full(entries, values[files[0]], np.float32)
        for file in files:
            best[self._slots[self._starts[file] : self._starts[file + 1]]] = values[file]
        return best

    def _closely(self, query: Floats, values: Floats, allowed: npt.NDArray[np.bool_], depth: int) -> Floats:
        """Return, for each entry, the cosine of its nearest region; for those not met, what that is at most.

        Files are looked into, the nearest first, until a region in the next one would have to be nearer than
        nearly all others are, seen from their centroids, to be among the best `depth` of what is allowed.
        """
        query = query / self._scale
        files = np.argsort(-values)
        ends = np.cumsum(self._lengths[files])
        best = np.full(len(allowed), -np.inf, np.float32)
        margin, start, wanted = np.float32(0.0), 0, _FIRST
        while True:
            end = max(start + 1, int(np.searchsorted(ends, wanted, side="right")))
            margin = max(margin, self._look(query, values, files[start:end], best))
            start = end
            if start >= len(files):
                return best
            least = np.partition(best[allowed], -depth)[-depth]
            bound = values[files[start]] + margin
            if bound < least:
                np.maximum(best, bound, out=best)
                return best
            near = int(np.searchsorted(-values[files], margin - least))
            wanted = min(int(ends[start - 1]) + _IN_ONE_GO, int(ends[max(start, near - 1)]))

    def _look(self, query: Floats, values: Floats, files: Slots, best: Floats) -> np.float32:
        """Write what is better than `best`; return by how much regions are nearer than centroids at most."""
        found: Floats = self._listed(self._bytes, files).astype(np.float32) @ query
        slots = self._listed(self._slots, files)
        better = np.flatnonzero(found > best[slots])
        better = better[np.argsort(found[better])]  # the best of an entry comes last, and stays
        best[slots[better]] = found[better]
        nearer = found - np.repeat(values[files], self._lengths[files])
        return np.float32(np.quantile(nearer, _MOSTLY)) if len(nearer) else np.float32(0.0)

    def _listed(self, listed: npt.NDArray[Any], files: Slots) -> npt.NDArray[Any]:
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

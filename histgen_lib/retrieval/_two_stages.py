"""Searching a shard: candidates first, then exact scores, until nothing else is likely to be better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histgen_lib.retrieval._maxsim import Places, maxsim, pairs_of
from histgen_lib.retrieval._port import Floats, Hit, Query
from histgen_lib.retrieval._postings import FEW
from histgen_lib.retrieval._shard import Flags, View

_ALL = 1_500
"""So few entries are all compared."""
_CANDIDATES = 300
_AT_A_TIME = 2_000
_ROUNDING = 0.003
"""Cosines of vectors held as bytes are as far off as that."""
_SAMPLE = 100
"""Entries from which is learnt how far off estimates are."""
_DEVIATIONS = 4.5
"""An estimate is further off than that for none of 100,000 entries."""
_MORE = 2_000
"""Entries, besides the candidates, that are looked at more closely if estimates tell them from others."""
_TELLING = 0.25
"""Estimates by which such a part of all may be among the best do not tell anything."""


def search(view: View, query: Query) -> list[Hit]:
    """Return the best cases of a view, one hit a case, the best first."""
    allowed = view.allowed(query.filters)
    scores = np.full(len(allowed), -np.inf, np.float32)
    if query.against == "regions":
        _compare_regions(view, query, allowed, scores)
    else:
        vectors = view.slides if query.against == "slides" else view.words
        scores = np.where(allowed, vectors @ query.vectors.mean(axis=0), scores)
    return [_hit(view, query, slot, scores[slot]) for slot in _best(view, scores, query.count)]


def _hit(view: View, query: Query, slot: int, score: float) -> Hit:
    entry = view.entry(slot)
    return Hit(entry, float(score), pairs_of(query.vectors, entry.vectors))


def _compare_regions(view: View, query: Query, allowed: Flags, scores: Floats) -> None:
    """Write exact scores of the best slots, and of others; what has none is not among the best."""
    count = int(np.count_nonzero(allowed))
    if view.postings is None or count <= _ALL:
        _score(view, query.vectors, np.flatnonzero(allowed), scores)
        return
    estimates = np.full(len(allowed), np.inf, np.float32)  # of what is not filed yet, so that it comes first
    filed = allowed[: view.filed]
    old = int(np.count_nonzero(filed))
    first = min(old, max(_CANDIDATES, 8 * query.count))
    estimates[: view.filed] = view.postings.estimate(query.vectors, filed, first)
    estimates[~allowed] = -np.inf
    first += count - old
    candidates = np.argpartition(-estimates, first - 1)[:first]
    _score(view, query.vectors, candidates, scores)
    _score(view, query.vectors, _missed(view, query, estimates, scores), scores)


def _missed(view: View, query: Query, estimates: Floats, scores: Floats) -> Places:
    """Return the slots without a score that may well be better than the last hit."""
    left = np.flatnonzero(np.isneginf(scores) & ~np.isneginf(estimates))
    best = _best(view, scores, query.count)
    if len(best) < query.count:
        return left
    least = float(scores[best[-1]])
    few = len(query.vectors) <= FEW
    if few:
        left = left[estimates[left] + _ROUNDING >= least]
    if len(left) <= (_MORE if few else _SAMPLE):
        return left
    sample = np.random.default_rng(len(left)).choice(left, _SAMPLE, replace=False)
    _score(view, query.vectors, sample, scores)
    left = left[np.isneginf(scores[left])]
    likely = left[_likely(estimates[left], estimates[sample], scores[sample], least)]
    if len(likely) < _TELLING * len(left):
        likely = likely[np.argsort(-estimates[likely])[:_MORE]]
    if len(likely) > _SAMPLE:
        closer = view.estimates_of(query.vectors, np.concatenate([sample, likely]))
        likely = likely[_likely(closer[_SAMPLE:], closer[:_SAMPLE], scores[sample], least)]
    return likely


def _likely(estimates: Floats, of_sample: Floats, scores: Floats, least: float) -> Flags:
    """Return which of these estimates may belong to scores of `least` or more.

    How far off estimates are is learnt from a sample taken at random: a line through its scores, and the
    deviation from that. Where estimates say little, as among random directions, nearly all are likely.
    """
    middle, mean = of_sample.mean(), scores.mean()
    slope = float(((of_sample - middle) * (scores - mean)).mean() / max(float(of_sample.var()), 1e-12))
    deviation = float((scores - mean - slope * (of_sample - middle)).std())
    likely: Flags = mean + slope * (estimates - middle) + _DEVIATIONS * deviation >= least
    return likely


def _score(view: View, queries: Floats, slots: Places, scores: Floats) -> None:
    slots = np.sort(slots)
    for start in range(0, len(slots), _AT_A_TIME):
        chosen = slots[start : start + _AT_A_TIME]
        scores[chosen] = maxsim(queries, *view.regions_of(chosen))


def _best(view: View, scores: Floats, count: int) -> list[int]:
    """Return the best slots, one a case."""
    best: dict[int, int] = {}
    for slot in _ranked(view, scores, 4 * count):
        best.setdefault(int(view.owners[slot]), slot)
        if len(best) == count:
            break
    return list(best.values())


def _ranked(view: View, scores: Floats, first: int) -> Iterator[int]:
    """Yield the slots that have a score, the best first; of equal ones by the slide's id."""
    scored = np.flatnonzero(~np.isneginf(scores))
    if first < len(scored):
        least = np.partition(scores[scored], -first)[-first]
        few = scored[scores[scored] >= least]
        yield from _sorted(view, scores, few)
        scored = scored[scores[scored] < least]
    yield from _sorted(view, scores, scored)


def _sorted(view: View, scores: Floats, slots: Places) -> list[int]:
    return sorted((int(slot) for slot in slots), key=lambda slot: (-scores[slot], view.rows[slot][0]))

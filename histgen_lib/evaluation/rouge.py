"""ROUGE-L (Lin 2004) as coco-caption computes it, and the longest common subsequence under it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from histgen_lib.evaluation.bootstrap import Floats

NAME = "ROUGE_L"
_BETA_SQUARED = 1.2**2  # coco-caption's weight of recall against precision


def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> Floats:
    """Compute ROUGE-L of every pair, float64[n]; the corpus value is their mean.

    Words are what stands between single spaces, as in coco-caption: two spaces in a row make an empty word,
    a line break stays inside its word, and the empty text is one empty word.
    """
    pairs = zip(references, predictions, strict=True)
    return np.array(
        [_score(reference.split(" "), text.split(" ")) for reference, text in pairs], dtype=np.float64
    )


def common_subsequence_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence, one big-integer step an item (Hyyrö 2004)."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for item in second:
        hits = row & places.get(item, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(first) - row.bit_count()


def _score(reference: Sequence[str], words: Sequence[str]) -> float:
    common = common_subsequence_length(reference, words)
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(reference)
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)

"""BLEU-1 to BLEU-4 (Papineni et al. 2002) with coco-caption's smoothing constants and brevity penalty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from histgen_lib.evaluation.bootstrap import Floats

NAMES = ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4")
_ORDERS = 4
# coco-caption's constants: the first keeps 0/0 at (nearly) zero, the second keeps a division defined.
_TINY = 1e-15
_SMALL = 1e-9


def bleu_statistics(references: Sequence[str], predictions: Sequence[str]) -> Floats:
    """Count what decides BLEU, float64[n, 10]: prediction length, reference length, matches, n-grams.

    Words are separated by any white space. Columns 2–5 hold the clipped matches of orders 1–4, columns 6–9
    the number of n-grams in the prediction.
    """
    rows = [_counts(reference, text) for reference, text in zip(references, predictions, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * _ORDERS)


def bleu_from_totals(totals: Floats) -> Floats:
    """Compute BLEU-1…4 float64[B, 4] of summed counts float64[B, 10] (`bleu_statistics`)."""
    length, reference_length = totals[:, 0], totals[:, 1]
    precisions = (totals[:, 2 : 2 + _ORDERS] + _TINY) / (totals[:, 2 + _ORDERS :] + _SMALL)
    means = np.cumprod(precisions, axis=1) ** (1.0 / np.arange(1, _ORDERS + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    scores: Floats = means * penalty[:, None]
    return scores


def _counts(reference: str, prediction: str) -> list[int]:
    words, reference_words = prediction.split(), reference.split()
    orders = range(1, _ORDERS + 1)
    matches = [(_ngrams(words, n) & _ngrams(reference_words, n)).total() for n in orders]
    possible = [max(0, len(words) - n + 1) for n in orders]
    return [len(words), len(reference_words), *matches, *possible]


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))

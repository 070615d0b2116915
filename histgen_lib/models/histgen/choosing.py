"""Choosing the next word where there is one beam: the likeliest, or a drawn one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from histgen_lib.models.histgen.decoding import DecodingSettings, Floats

TRIGRAM_PENALTY = 2 * 0.693
"""Subtracted from a word's log-probability for each time it would repeat a trigram (published greedy
search)."""


class Chooser:
    """Chooses one slide's next word. Each slide has its own generator, so that batches change nothing."""

    def __init__(self, settings: DecodingSettings) -> None:
        self.settings = settings
        self.random = np.random.default_rng(settings.seed)
        self.words: list[int] = []
        self.trigrams: Counter[tuple[int, int, int]] = Counter()

    def __call__(self, log_probs: Floats) -> int:
        """Return the next word, by the log-probabilities float32[V+1] of all."""
        word = self._draw(log_probs) if self.settings.method == "sample" else self._likeliest(log_probs)
        self.words.append(word)
        if len(self.words) >= 3:
            self.trigrams[(self.words[-3], self.words[-2], word)] += 1
        return word

    def _likeliest(self, log_probs: Floats) -> int:
        if self.settings.block_trigrams:
            log_probs = log_probs.copy()
            for (first, second, third), count in self.trigrams.items():
                if [first, second] == self.words[-2:]:
                    log_probs[third] -= TRIGRAM_PENALTY * count
        return int(log_probs.argmax())

    def _draw(self, log_probs: Floats) -> int:
        order = np.argsort(-log_probs, kind="stable")
        if self.settings.top_k:
            order = order[: self.settings.top_k]
        scaled = log_probs[order].astype(np.float64) / self.settings.temperature
        shares = np.exp(scaled - scaled.max())
        shares /= shares.sum()
        # The smallest set of words that has top_p of the probability; the first is always in it.
        kept = np.cumsum(shares) - shares < self.settings.top_p
        cumulative = np.cumsum(shares[kept])
        place = np.searchsorted(cumulative, self.random.random() * cumulative[-1], side="right")
        return int(order[min(int(place), len(cumulative) - 1)])

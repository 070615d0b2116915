"""Parts of the REG2025 score that need no model: keywords by rule, vectors by hashing n-grams."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from histgen_lib.evaluation.bootstrap import Floats
from histgen_lib.text.synoptic import parse_report

_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")
_BREAK = re.compile(r"[^\w\s'-]|\n")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been but by for from has have in into is it its no not of on or other others "
        "specified than that the there these this those to was were which with within without"
    )
)
_MIN_CHARACTERS = 3  # REG2025 drops shorter entities
_MAX_WORDS = 3
_DIMENSIONS = 4096


class LexicalEntities:
    """Synoptic `name: value` pairs, and n-grams of up to three neighbouring words that are not stop words."""

    def entities(self, text: str) -> frozenset[str]:
        """Return the keywords in `text`, lower-case, each once."""
        pairs = {f"{name}: {value}".lower() for name, value in parse_report(text).items() if value}
        grams = {" ".join(gram) for phrase in _phrases(text) for gram in _grams(phrase, _MAX_WORDS)}
        return frozenset(pairs | {gram for gram in grams if len(gram) >= _MIN_CHARACTERS})


class HashedNgrams:
    """Words, word pairs and character 4-grams, hashed into 4096 dimensions, square root of counts."""

    rescale_from = 0.0

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return one non-negative vector a text, float64[n, 4096]."""
        vectors = np.zeros((len(texts), _DIMENSIONS))
        for vector, text in zip(vectors, texts, strict=True):
            for feature, count in Counter(_features(text)).items():
                vector[zlib.crc32(feature.encode()) % _DIMENSIONS] += count
        return np.sqrt(vectors)


def _phrases(text: str) -> Iterator[list[str]]:
    """Yield runs of words between punctuation, line ends and stop words."""
    for piece in _BREAK.split(text.lower()):
        run: list[str] = []
        for word in _WORD.findall(piece):
            if word in _STOP_WORDS:
                yield run
                run = []
            else:
                run.append(word)
        yield run


def _grams(words: Sequence[str], longest: int) -> Iterator[Sequence[str]]:
    for size in range(1, longest + 1):
        for start in range(len(words) - size + 1):
            yield words[start : start + size]


def _features(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    for gram in _grams(words, 2):
        yield " ".join(gram)
    for word in words:
        framed = f"<{word}>"
        for start in range(len(framed) - 3):
            yield "#" + framed[start : start + 4]

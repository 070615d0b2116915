"""The published word tokenizer: cleaned, lower-cased words that occur often enough."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from histgen_lib.text.stored import StoredTokenizer, known_ids

UNKNOWN = "<unk>"

_RUNS = re.compile(r"_{2,}|\.{2,}| {2,}")
_QUOTES_AND_SLASHES = re.compile(r"[\"'/\\]")
# The published character class holds the range ":" to "[", so it takes < = > @ as well, and leaves hyphens.
_PUNCTUATION = re.compile(r"[.,?;*!%^&_+():<=>@\[\]{}]")


def clean_report(report: str) -> str:
    """Clean a report as the published code does: lower case, no list numbers, sentences ended by " . ".

    Idempotent only up to its own full stops; line breaks and most punctuation are lost on purpose.
    """
    text = _RUNS.sub(lambda run: run[0][0], report.replace("\n", " "))
    text = text.replace("1. ", "")
    for number in "2345":
        text = text.replace(f". {number}. ", ". ")
    for number in "2345":
        text = text.replace(f" {number}. ", ". ")
    sentences = (_clean_sentence(sentence) for sentence in text.strip().lower().split(". "))
    return " . ".join(sentences) + " ."


def _clean_sentence(sentence: str) -> str:
    return _PUNCTUATION.sub("", _QUOTES_AND_SLASHES.sub("", sentence).strip())


class WordTokenizer(StoredTokenizer):
    """Ids 1…V for the words in sorted order, "<unk>" among them for all rarer ones."""

    kind = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: place + 1 for place, word in enumerate(self.words)}
        if UNKNOWN not in self._ids or len(self._ids) != len(self.words):
            raise ValueError(f"a vocabulary needs distinct words, {UNKNOWN} among them")

    @classmethod
    def train(cls, reports: Iterable[str], threshold: int = 10) -> Self:
        """Keep the words that occur at least `threshold` times in the cleaned reports."""
        counts = Counter(word for report in reports for word in clean_report(report).split())
        kept = [word for word, count in counts.items() if count >= threshold]
        return cls(sorted([*kept, UNKNOWN]))

    @property
    def vocab_size(self) -> int:
        """Number of words, "<unk>" included."""
        return len(self.words)

    def unknown_share(self, reports: Iterable[str]) -> tuple[float, int]:
        """Count the cleaned reports' words: the share that the vocabulary lacks, and their number."""
        words = [word for report in reports for word in clean_report(report).split()]
        return sum(word not in self._ids for word in words) / max(len(words), 1), len(words)

    def encode(self, text: str) -> list[int]:
        """Give one id for each word of the cleaned text."""
        unknown = self._ids[UNKNOWN]
        return [self._ids.get(word, unknown) for word in clean_report(text).split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Join the words of ids by spaces, up to the first 0."""
        return " ".join(self.words[number - 1] for number in known_ids(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        """Give the words in order of their ids."""
        return {"words": self.words}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the words."""
        return cls(values["words"])

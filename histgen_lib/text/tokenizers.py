"""Text to ids and back: byte pieces for new models, the published words for old ones, and their files."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, write_atomic

UNKNOWN = "<unk>"
_SCHEMA = 1

_RUNS = re.compile(r"_{2,}|\.{2,}| {2,}")
_QUOTES_AND_SLASHES = re.compile(r"[\"'/\\]")
# The published character class holds the range ":" to "[", so it takes < = > @ as well, and leaves hyphens.
_PUNCTUATION = re.compile(r"[.,?;*!%^&_+():<=>@\[\]{}]")


class Tokenizer(Protocol):
    """Words or word pieces with ids 1…vocab_size; id 0 is begin, end and padding, never text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids above 0."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without begin or end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids up to the first 0. InvalidInputError("tokens-unknown") for ids too large."""
        ...

    def save(self, path: Path) -> None:
        """Write one JSON file, all or nothing."""
        ...


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read what a tokenizer's `save` wrote. Raises InvalidInputError("tokenizer-unreadable")."""
    path = Path(path)
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] != _SCHEMA:
            raise ValueError(f"schema {values['schema']}")
        kinds: dict[str, type[WordTokenizer | BpeTokenizer]] = {"word": WordTokenizer, "bpe": BpeTokenizer}
        return kinds[values["kind"]].from_json(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            "tokenizer-unreadable",
            f"{path.name} is not a tokenizer that this version can read ({error}).",
            hint="Use the tokenizer.json that was written with the model.",
        ) from error


class _StoredTokenizer(ABC):
    """What both kinds share: their file, {"schema": 1, "kind": …, …}."""

    kind = ""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the values that rebuild this tokenizer."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`'s values."""

    def save(self, path: Path) -> None:
        """Write one JSON file, all or nothing."""
        write_atomic(path, canonical_json({"schema": _SCHEMA, "kind": self.kind, **self.to_json()}))


class BpeTokenizer(_StoredTokenizer):
    """Byte-pair pieces trained on the user's own reports: any text can be written, decode(encode(t)) == t."""

    kind = "bpe"

    def __init__(self, pieces: HuggingFaceTokenizer) -> None:
        self._pieces = pieces

    @classmethod
    def train(cls, reports: Iterable[str], vocab_size: int = 1000) -> Self:
        """Learn at most `vocab_size` pieces, and at least the 256 bytes. Same reports, same ids."""
        pieces = HuggingFaceTokenizer(models.BPE())
        pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        pieces.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        pieces.train_from_iterator(reports, trainer)
        return cls(pieces)

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self._pieces.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of the pieces of a text."""
        return [number + 1 for number in self._pieces.encode(text).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the exact text of ids up to the first 0; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._pieces.decode([number - 1 for number in _known_ids(ids, self.vocab_size)])
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the form of Hugging Face's `tokenizers`."""
        return {"tokenizer": json.loads(self._pieces.to_str())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from that form. Raises ValueError if the library refuses it."""
        try:
            return cls(HuggingFaceTokenizer.from_str(json.dumps(values["tokenizer"])))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from error


class WordTokenizer(_StoredTokenizer):
    """The published tokenizer: ids 1…V for cleaned words in sorted order, "<unk>" for all rarer ones."""

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
        """Return the share of the cleaned reports' words that the vocabulary lacks, and their number."""
        words = [word for report in reports for word in clean_report(report).split()]
        return sum(word not in self._ids for word in words) / max(len(words), 1), len(words)

    def encode(self, text: str) -> list[int]:
        """Return one id for each word of the cleaned text."""
        unknown = self._ids[UNKNOWN]
        return [self._ids.get(word, unknown) for word in clean_report(text).split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of ids up to the first 0, joined by spaces."""
        return " ".join(self.words[number - 1] for number in _known_ids(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        """Return the words in the order of their ids."""
        return {"words": self.words}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the words."""
        return cls(values["words"])


def clean_report(report: str) -> str:
    """Clean a report as the published code does: lower case, no list numbers, sentences ended by " . ".

    Idempotent only up to its own full stops; line breaks and most punctuation are dropped on purpose.
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


def _known_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    """Cut ids at the first 0 and refuse those that a tokenizer of this size never returns."""
    listed = [int(number) for number in ids]
    kept = listed[: listed.index(0)] if 0 in listed else listed
    strange = sorted({number for number in kept if not 0 < number <= vocab_size})
    if strange:
        raise InvalidInputError(
            "tokens-unknown",
            f"These ids are not in the vocabulary of {vocab_size}: {strange[:5]}.",
            hint="Use the tokenizer.json of the model that produced them.",
        )
    return kept

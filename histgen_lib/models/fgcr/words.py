"""The vocabulary of a retrieval network: words of any language, and one token for all that are not in it.

Punctuation is dropped, but for "+". Torch-free.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers, pre_tokenizers

from histgen_lib.errors import FatalError
from histgen_lib.files import canonical_json, write_atomic
from histgen_lib.models.fgcr.serving import retrieval_config
from histgen_lib.models.folder import RETRIEVAL_WORDS, ModelFolder

UNKNOWN_ID, MASK_ID = 1, 2
_FIRST = 3
"""Ids: 0 padding, 1 an unknown word, 2 a hidden word (in training), then the words."""

_SCHEMA = 1

_CHARACTERS = 16
"""For each word that is sought, as many of a text are looked at first."""


class Words:
    """Words with their ids. `limit`: the longest text that the network reads, in words."""

    def __init__(self, words: Sequence[str], *, lower: bool, limit: int) -> None:
        self.words, self.lower, self.limit = tuple(words), lower, limit
        self._ids = {word: place + _FIRST for place, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary needs distinct words")

    @classmethod
    def train(
        cls, texts: Iterable[str], *, lower: bool = True, least: int = 1, most: int = 20_000, limit: int = 175
    ) -> Self:
        """Keep the words that occur at least `least` times, and of those the `most` frequent."""
        empty = cls((), lower=lower, limit=limit)
        counts = Counter(word for text in texts for word in empty.split(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        kept = [word for word in ordered[:most] if counts[word] >= least]
        return cls(sorted(kept), lower=lower, limit=limit)

    @property
    def vocab_size(self) -> int:
        """Number of ids, those for padding, unknown and hidden words included."""
        return _FIRST + len(self.words)

    def split(self, text: str) -> list[str]:
        """Return the words of a text. Scripts written without spaces are split at each ideograph."""
        whole = text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
        parts = self._splitter.pre_tokenize_str(self._normaliser.normalize_str(whole))
        return [part for part, _ in parts if part == "+" or any(map(str.isalnum, part))]

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Return the ids of a text's first words, int32[T], 1 ≤ T ≤ `limit`; "unknown" if it has no words."""
        ids = [self._ids.get(word, UNKNOWN_ID) for word in self._first(text)]
        return np.array(ids or [UNKNOWN_ID], dtype=np.int32)

    def _first(self, text: str) -> list[str]:
        """Return the first `limit` words; of a long text no more is split than holds them."""
        length = _CHARACTERS * self.limit
        words = self.split(text[:length])
        while len(words) <= self.limit and length < len(text):  # the last one may be cut
            length *= 2
            words = self.split(text[:length])
        return words[: self.limit]

    def unknown_share(self, texts: Iterable[str]) -> float:
        """Return the share of the texts' words that the vocabulary lacks."""
        words = [word for text in texts for word in self.split(text)]
        return sum(word not in self._ids for word in words) / max(len(words), 1)

    def save(self, path: Path) -> Path:
        """Write one JSON file, all or nothing; return it."""
        content = {"schema": _SCHEMA, "lower": self.lower, "words": list(self.words)}
        write_atomic(path, canonical_json(content))
        return path

    @cached_property
    def _normaliser(self) -> normalizers.Normalizer:
        return normalizers.Sequence(
            [
                normalizers.NFKC(),
                normalizers.BertNormalizer(
                    clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=self.lower
                ),
            ]
        )

    @cached_property
    def _splitter(self) -> pre_tokenizers.PreTokenizer:
        return pre_tokenizers.BertPreTokenizer()


def load_words(folder: ModelFolder) -> Words:
    """Read the vocabulary of a model folder's retrieval network.

    Raises FatalError: "model-incomplete" without one, "model-config" if it cannot be used.
    """
    config = retrieval_config(folder)
    path = folder.file(RETRIEVAL_WORDS)
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        words = Words(content["words"], lower=bool(content["lower"]), limit=config.max_words)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FatalError(
            "model-config",
            f"{path.name} of the model {folder.path.name} cannot be read ({error}).",
            hint="Was it written by another version, or edited? Fetch the model again.",
        ) from error
    if words.vocab_size != config.vocab_size:
        raise FatalError(
            "model-config",
            f"{path.name} has {words.vocab_size} ids, the network {config.vocab_size}.",
            hint="Its files are of different models: fetch the model again.",
        )
    return words

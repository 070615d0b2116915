"""Byte-pair tokenizer trained on the user's own reports; keeps case, line breaks and punctuation exactly."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from histgen_lib.text.stored import StoredTokenizer, known_ids


class BpeTokenizer(StoredTokenizer):
    """Byte-level pieces, so any text can be written: decode(encode(t)) == t."""

    kind = "bpe"

    def __init__(self, pieces: HuggingFaceTokenizer) -> None:
        self._pieces = pieces

    @classmethod
    def train(cls, reports: Iterable[str], vocab_size: int = 1000) -> Self:
        """Learn at most `vocab_size` pieces, and the 256 bytes at least. Same reports, same ids."""
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
        """Give the ids of the pieces of a text."""
        return [number + 1 for number in self._pieces.encode(text).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Give the exact text of ids up to the first 0; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._pieces.decode([number - 1 for number in known_ids(ids, self.vocab_size)])
        return text

    def to_json(self) -> dict[str, Any]:
        """Give the Hugging Face `tokenizers` form."""
        return {"tokenizer": json.loads(self._pieces.to_str())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from that form. Raises ValueError when the library refuses it."""
        try:
            return cls(HuggingFaceTokenizer.from_str(json.dumps(values["tokenizer"])))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from error

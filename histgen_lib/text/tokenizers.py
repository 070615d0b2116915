"""Text to ids and back: what a tokenizer promises, and loading whichever kind a file holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from histgen_lib.errors import InvalidInputError
from histgen_lib.text.bpe import BpeTokenizer
from histgen_lib.text.stored import SCHEMA
from histgen_lib.text.word import WordTokenizer


class Tokenizer(Protocol):
    """Words or word pieces with ids 1…vocab_size; id 0 is begin, end and padding, never text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids above 0."""
        ...

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text, without begin or end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of ids up to the first 0. InvalidInputError("tokens-unknown") for ids above."""
        ...

    def save(self, path: Path) -> None:
        """Write one JSON file, all or nothing."""
        ...


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read what a tokenizer's `save` wrote. Raises InvalidInputError("tokenizer-unreadable")."""
    path = Path(path)
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']}")
        kinds: dict[str, type[WordTokenizer | BpeTokenizer]] = {"word": WordTokenizer, "bpe": BpeTokenizer}
        return kinds[values["kind"]].from_json(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            "tokenizer-unreadable",
            f"{path.name} is not a tokenizer that this version can read ({error}).",
            hint="Take the tokenizer.json that was written with the model.",
        ) from error

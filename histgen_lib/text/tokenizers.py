"""Text to ids and back: what a tokenizer promises, and loading whichever kind a file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, write_atomic

SCHEMA = 1


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


class StoredTokenizer:
    """The file form every tokenizer shares: {"schema": 1, "kind": …, …}."""

    kind = ""

    def to_json(self) -> dict[str, Any]:
        """Give the values that rebuild this tokenizer."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`'s values."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write one JSON file, all or nothing."""
        write_atomic(path, canonical_json({"schema": SCHEMA, "kind": self.kind, **self.to_json()}))


def known_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    """Cut ids at the first 0 and refuse those no tokenizer of this size has given."""
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


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Read what a tokenizer's `save` wrote. Raises InvalidInputError("tokenizer-unreadable")."""
    from histgen_lib.text.bpe import BpeTokenizer  # noqa: PLC0415  each kind builds on this module
    from histgen_lib.text.word import WordTokenizer  # noqa: PLC0415

    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
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

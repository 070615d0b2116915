"""What every kind of tokenizer shares: its file form, and refusing ids that it never gave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, write_atomic

SCHEMA = 1


class StoredTokenizer(ABC):
    """The file form every tokenizer shares: {"schema": 1, "kind": …, …}."""

    kind = ""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Give the values that rebuild this tokenizer."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`'s values."""

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

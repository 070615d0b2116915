"""The store in memory is used from several threads, as a worker and a gateway use a real one."""

from __future__ import annotations

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.testing import MemoryStore


class _Vanishing(dict[str, bytes]):
    """Objects that another thread deletes as soon as someone has looked whether they are there."""

    def __contains__(self, key: object) -> bool:
        return self.pop(str(key), None) is not None


def test_an_object_deleted_while_it_is_read_is_missing_or_read_whole() -> None:
    store = MemoryStore()
    store.objects = _Vanishing({"a": b"1"})
    assert store.get("a") == b"1"
    store.delete("a")
    with pytest.raises(InvalidInputError, match="object"):
        store.get("a")

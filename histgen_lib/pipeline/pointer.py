"""Pointers: the few objects that are written again, to say which of several others holds now.

A pointer remembers what it said before. What it says or ever said is news no more, so events that come twice
or late never move it back; and of two who write at once neither is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from histgen_lib.files import canonical_json
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.storage import ObjectStore

PREVIOUS = "previous"


def advance(store: ObjectStore, key: str, value: Mapping[str, Any], *, by: str) -> dict[str, Any]:
    """Have the pointer at `key` say `value`, unless it did before; return what it says then.

    `by`: the field that tells one value from another. What `value[by]` was before stands under "previous",
    the latest first.
    """
    while True:
        raw = read_object(store, key)
        found = _parsed(raw, by)
        said = [found[by], *found[PREVIOUS]] if found else []
        if found and value[by] in said:
            return found
        data = canonical_json({**value, PREVIOUS: said})
        store.put(key, data, if_absent=raw is None, content_type=JSON)


def read_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says; None if there is none, or none that can be read."""
    return _parsed(read_object(store, key), by)


def said_before(pointer: Mapping[str, Any], value: str, *, by: str) -> bool:
    """Whether a pointer says, or ever said, `value`."""
    return value == pointer[by] or value in pointer[PREVIOUS]


def _parsed(data: bytes | None, by: str) -> dict[str, Any] | None:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    sound = (
        isinstance(value, dict) and isinstance(value.get(by), str) and isinstance(value.get(PREVIOUS), list)
    )
    return value if sound else None

"""Pointers: the few objects that are written again, to say which of several others holds now.

Beside a pointer lies its history, numbered entries written once: who writes number n+1 knows all that was
said before, since of two writers only one gets the number. So what was said once is news no more, whoever
says it again and however late, and a pointer never goes back; unless it is said in a later turn, which means
that someone wants it back. The pointer is the history's end, for readers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from histgen_lib.files import canonical_json
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.storage import ObjectStore

PREVIOUS = "previous"
TURN = "turn"
"""The field that counts how often one went back, see `events.SlideScanned`; 0 where it is missing."""


def advance(store: ObjectStore, key: str, value: Mapping[str, Any], *, by: str) -> dict[str, Any]:
    """Have the pointer at `key` say `value`, unless it did so before; return what it says then.

    `by`: the field that tells one value from another. What `value[by]` was before stands under "previous",
    the latest first. The pointer is right when this returns, also after crashes of others.
    """
    while True:
        said = _history(store, key)
        new = not said or not said_before(_pointer(said, by), value[by], by=by, turn=_turn(value))
        if new:
            data = canonical_json(value)
            if not store.put(_entry_key(key, len(said) + 1), data, content_type=JSON):
                continue  # another got the number
            said.append(dict(value))
        pointer = _pointer(said, by)
        data = canonical_json(pointer)
        if new or read_object(store, key) != data:
            store.put(key, data, if_absent=False, content_type=JSON)
        if store.head(_entry_key(key, len(said) + 1)) is None:
            return pointer  # else more was said meanwhile, and this may have covered it up


def read_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says; None if there is none, or none that can be read."""
    value = _parsed(read_object(store, key))
    return value if isinstance(value.get(by), str) and isinstance(value.get(PREVIOUS), list) else None


def said_before(pointer: Mapping[str, Any], value: str, *, by: str, turn: int) -> bool:
    """Whether a pointer says, or ever said, `value`, or has gone on to a later turn."""
    now = _turn(pointer)
    return turn < now or (turn == now and value in [pointer[by], *pointer[PREVIOUS]])


def _history(store: ObjectStore, key: str) -> list[dict[str, Any]]:
    keys = sorted(info.key for info in store.list(_history_prefix(key)))
    return [_parsed(read_object(store, entry)) for entry in keys]


def _pointer(said: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    return {**said[-1], PREVIOUS: [entry.get(by) for entry in reversed(said[:-1])]}


def _turn(value: Mapping[str, Any]) -> int:
    turn = value.get(TURN, 0)
    return turn if isinstance(turn, int) else 0


def _history_prefix(key: str) -> str:
    return f"{key.removesuffix('.json')}.history/"


def _entry_key(key: str, number: int) -> str:
    return f"{_history_prefix(key)}{number:06d}.json"


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

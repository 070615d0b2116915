"""Pointers: the few objects that are written again, to say which of several others holds now.

Beside a pointer lies its history, numbered entries written once: who writes number n+1 knows all that was
said before, since of two writers only one gets the number. So what was said once is news no more, whoever
says it again and however late, and a pointer never goes back; unless it is said in a later turn, which means
that someone wants it back. The pointer is the history's end, for readers. Each tells what the other said: one
of them that is damaged is read from the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from histgen_lib.files import canonical_json
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.storage import ObjectStore

PREVIOUS = "previous"
BY_REPORT, BY_BAG = "report_digest", "bag_digest"
"""What tells the values of pointers apart: to the latest report, and to a slide's bag in its case."""
_HISTORY = ".history/"
TURN = "turn"
"""The field that counts how often one went back, see `events.SlideScanned`; 0 where it is missing."""


def advance(store: ObjectStore, key: str, value: Mapping[str, Any], *, by: str) -> dict[str, Any]:
    """Have the pointer at `key` say `value`, unless it did so before; return what it says then.

    `by`: the field that tells one value from another. What `value[by]` was before stands under "previous",
    the latest first. The pointer is right when this returns, also after crashes of others.
    """
    while True:
        said = _history(store, key, by)
        new = not any(said) or not said_before(_pointer(said, by), value[by], by=by, turn=_turn(value))
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
    return _readable(read_object(store, key), by)


def recall_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says, or would if it were not damaged or gone; None if nothing is known of it."""
    if value := read_pointer(store, key, by=by):
        return value
    said = _history(store, key, by)
    return _pointer(said, by) if any(said) else None


def pointer_of(key: str) -> str:
    """Return the key of the pointer that an object belongs to: itself, or one whose history it is of."""
    return f"{key.rpartition(_HISTORY)[0]}.json" if _HISTORY in key else key


def pointer_faults(store: ObjectStore, key: str, *, by: str) -> Iterator[str]:
    """Name the objects of a pointer and its history that are missing or do not hold what they should."""
    said = _history(store, key, by)
    for number, entry in enumerate(said, 1):
        if read_object(store, _entry_key(key, number)) != canonical_json(entry):
            yield _entry_key(key, number)
    told = [canonical_json(_pointer(said[:end], by)) for end in range(1, len(said) + 1) if any(said[:end])]
    if read_object(store, key) not in told:
        yield key


def mend_pointer(store: ObjectStore, key: str, *, by: str) -> None:
    """Write what is damaged of a pointer and its history again, as far as one of them still says it."""
    said = _history(store, key, by)
    for number, entry in enumerate(said, 1):
        if entry and read_object(store, _entry_key(key, number)) != canonical_json(entry):
            store.put(_entry_key(key, number), canonical_json(entry), if_absent=False, content_type=JSON)
    if any(said):
        advance(store, key, next(entry for entry in reversed(said) if entry), by=by)


def said_before(pointer: Mapping[str, Any], value: str, *, by: str, turn: int) -> bool:
    """Whether a pointer says, or ever said, `value`, or has gone on to a later turn."""
    now = _turn(pointer)
    return turn < now or (turn == now and value in [pointer[by], *pointer[PREVIOUS]])


def _history(store: ObjectStore, key: str, by: str) -> list[dict[str, Any]]:
    """Return the entries in order; of one that is not there what the pointer says, {} if that is nothing."""
    found = {_number(info.key): info.key for info in store.list(_history_prefix(key))}
    entries = {number: _parsed(read_object(store, entry)) for number, entry in found.items()}
    sound = {number: entry for number, entry in entries.items() if isinstance(entry.get(by), str)}
    most = max(found, default=0)
    told = _told(read_pointer(store, key, by=by), by)
    return [sound.get(number) or told.get(number) or {} for number in range(1, max(most, len(told)) + 1)]


def _told(pointer: Mapping[str, Any] | None, by: str) -> dict[int, dict[str, Any]]:
    """Return the entries that a pointer tells of: of the last all, of earlier ones what tells them apart."""
    if pointer is None:
        return {}
    last = {name: value for name, value in pointer.items() if name != PREVIOUS}
    said = [*({by: value} for value in reversed(pointer[PREVIOUS])), last]
    return dict(enumerate(said, 1))


def _pointer(said: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    known = [entry for entry in said if entry]
    return {**known[-1], PREVIOUS: [entry[by] for entry in reversed(known[:-1])]}


def _turn(value: Mapping[str, Any]) -> int:
    turn = value.get(TURN, 0)
    return turn if isinstance(turn, int) else 0


def _history_prefix(key: str) -> str:
    return f"{key.removesuffix('.json')}{_HISTORY}"


def _number(entry_key: str) -> int:
    name = entry_key.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isdecimal() else 0


def _readable(data: bytes | None, by: str) -> dict[str, Any] | None:
    value = _parsed(data)
    previous = value.get(PREVIOUS)
    told = isinstance(value.get(by), str) and isinstance(previous, list)
    return value if told and all(isinstance(one, str) for one in previous or ()) else None


def _entry_key(key: str, number: int) -> str:
    return f"{_history_prefix(key)}{number:06d}.json"


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""Pointers: the few objects that are written again, to say which of several others holds now.

Beside a pointer lies its history, numbered entries written once: who writes number n+1 knows all that was
said before, since of two writers only one gets the number. So what was said once is news no more, whoever
says it again and however late, and a pointer never goes back; unless it is said in a later turn, which means
that someone wants it back. The pointer is the history's end, for readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.storage import ObjectStore

PREVIOUS = "previous"
TURN = "turn"
"""The field that counts how often one went back, see `events.SlideScanned`; 0 where it is missing."""
TURNS = "turns"
"""The same by slide id, in the pointer of a case; TURN is their sum."""
_NAMES = ("slide_id", "case_id")
"""The fields that say whose pointer it is."""


def advance(
    store: ObjectStore,
    key: str,
    value: Mapping[str, Any],
    *,
    by: str,
    ours: Callable[[Mapping[str, Any]], bool] = lambda entry: True,
) -> dict[str, Any]:
    """Have the pointer at `key` say `value`, unless it did so before; return what it says then.

    `by`: the field that tells one value from another. What `value[by]` was before stands under "previous",
    the latest first. `ours`: whether an entry counts at all. The pointer is right when this returns, also
    after crashes of others. Raises InvalidInputError("names-not-told-apart").
    """
    while True:
        entries = history(store, key)
        _check_name(entries, value)
        said = [entry for entry in entries if ours(entry)]
        new = not said or not said_before(_pointer(said, by), value, by=by)
        if new:
            data = canonical_json(value)
            if not store.put(_entry_key(key, len(entries) + 1), data, content_type=JSON):
                continue  # another got the number
            entries.append(dict(value))
            said.append(dict(value))
        pointer = _pointer(said, by)
        data = canonical_json(pointer)
        if new or read_object(store, key) != data:
            store.put(key, data, if_absent=False, content_type=JSON)
        if store.head(_entry_key(key, len(entries) + 1)) is None:
            return pointer  # else more was said meanwhile, and this may have covered it up


def read_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says; None if there is none, or none that can be read."""
    value = _parsed(read_object(store, key))
    return value if isinstance(value.get(by), str) and isinstance(value.get(PREVIOUS), list) else None


def said_before(pointer: Mapping[str, Any], value: Mapping[str, Any], *, by: str) -> bool:
    """Whether a pointer says, or ever said, `value`, or has gone on to a later turn."""
    now, then = _turns(pointer, value)
    return then < now or (then == now and value[by] in [pointer[by], *pointer[PREVIOUS]])


def history(store: ObjectStore, key: str) -> list[dict[str, Any]]:
    """Return all that a pointer ever said, the earliest first; {} for an entry that cannot be read."""
    keys = sorted(info.key for info in store.list(_history_prefix(key)))
    return [_parsed(read_object(store, entry)) for entry in keys]


def inherit(store: ObjectStore, key: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Have a pointer's history begin with what was said elsewhere; call it before every `advance`."""
    for number, entry in enumerate(entries, 1):
        store.put(_entry_key(key, number), canonical_json(entry), content_type=JSON)


def _check_name(entries: Sequence[Mapping[str, Any]], value: Mapping[str, Any]) -> None:
    """Refuse to write where a store keeps another name's pointer: one that ignores case, for example."""
    for name in _NAMES:
        if any(name in entry and name in value and entry[name] != value[name] for entry in entries):
            raise InvalidInputError(
                "names-not-told-apart",
                f"The store takes {value[name]} for another name that it keeps something of.",
                hint="Give the slide or case a name that differs in more than capitals and accents, or keep "
                "the store on a file system, or in a bucket, that tells such names apart.",
            )


def _turns(pointer: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[int, int]:
    """Return the turns of what holds and of a value; of cases with other slides, of those in both."""
    now, then = pointer.get(TURNS), value.get(TURNS)
    if not (isinstance(now, dict) and isinstance(then, dict)) or now.keys() == then.keys():
        return _turn(pointer), _turn(value)
    both = now.keys() & then.keys()
    return sum(_turn(now, slide) for slide in both), sum(_turn(then, slide) for slide in both)


def _pointer(said: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    return {**said[-1], PREVIOUS: [entry.get(by) for entry in reversed(said[:-1])]}


def _turn(value: Mapping[str, Any], name: str = TURN) -> int:
    turn = value.get(name, 0)
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

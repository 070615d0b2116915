"""Pointers: the few objects that are written again, to say which of several others holds now.

Beside a pointer lies its history, numbered entries written once: who writes number n+1 knows all that was
said before, since of two writers only one gets the number. So what was said once is news no more, whoever
says it again and however late, and a pointer never goes back; unless it is said in a later turn, which means
that someone wants it back. The pointer is the history's end, for readers. Each tells what the other said: one
of them that is damaged is read from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from histgen_lib.catalogue.objects import JSON
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sealed_json, unsealed_object
from histgen_lib.storage import ObjectStore

PREVIOUS = "previous"
BY_REPORT, BY_BAG = "report_digest", "bag_digest"
"""What tells the values of pointers apart: to the latest report, and to a slide's bag in its case."""
_HISTORY = ".history/"
TURN = "turn"
"""The field that counts how often one went back, see `events.SlideScanned`; 0 where it is missing."""
TURNS = "turns"
"""The same by slide id, in the pointer of a case; TURN is their sum."""
_NAMES = ("slide_id", "case_id")
"""The fields that say whose pointer it is."""
Ours = Callable[[Mapping[str, Any]], bool]


def advance(
    store: ObjectStore,
    key: str,
    value: Mapping[str, Any],
    *,
    by: str,
    ours: Ours = lambda entry: True,
) -> dict[str, Any]:
    """Have the pointer at `key` say `value`, unless it did so before; return what it says then.

    `by`: the field that tells one value from another. What `value[by]` was before stands under "previous",
    the latest first. `ours`: whether an entry counts at all. The pointer is right when this returns, also
    after crashes of others. Raises InvalidInputError("names-not-told-apart").
    """
    while True:
        entries = history(store, key, by=by)
        _check_name(entries, value)
        said = [entry for entry in entries if entry and ours(entry)]
        new = not said or not said_before(_pointer(said, by), value, by=by)
        if new:
            if not store.put(_entry_key(key, len(entries) + 1), sealed_json(value), content_type=JSON):
                continue  # another got the number
            entries.append(dict(value))
            said.append(dict(value))
        pointer = _pointer(said, by)
        if new or unsealed_object(store.find(key)) != pointer:
            store.put(key, sealed_json(pointer), if_absent=False, content_type=JSON)
        if store.head(_entry_key(key, len(entries) + 1)) is None:
            return pointer  # else more was said meanwhile, and this may have covered it up


def read_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says; None if there is none, or none that can be read."""
    return readable_pointer(store.find(key), by=by)


def readable_pointer(data: bytes | None, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer's bytes say; None if that cannot be read."""
    value = unsealed_object(data)
    previous = value.get(PREVIOUS)
    told = isinstance(value.get(by), str) and isinstance(previous, list)
    return value if told and all(isinstance(one, str) for one in previous or ()) else None


def recall_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says, or would if it were not damaged or gone; None if nothing is known of it."""
    if value := read_pointer(store, key, by=by):
        return value
    said = history(store, key, by=by)
    return _pointer(said, by) if any(said) else None


def pointer_of(key: str) -> str:
    """Return the key of the pointer that an object belongs to: itself, or one whose history it is of."""
    return f"{key.rpartition(_HISTORY)[0]}.json" if _HISTORY in key else key


def pointer_faults(store: ObjectStore, key: str, *, by: str) -> Iterator[str]:
    """Name the objects of a pointer and its history that are missing or do not hold what they should."""
    said = history(store, key, by=by)
    for number, entry in enumerate(said, 1):
        if not _holds(store, _entry_key(key, number), entry):
            yield _entry_key(key, number)
    if not _is_told(read_pointer(store, key, by=by), said, by):
        yield key


def mend_pointer(store: ObjectStore, key: str, *, by: str, ours: Ours = lambda entry: True) -> None:
    """Write what is damaged of a pointer and its history again, as far as one of them still says it."""
    said = history(store, key, by=by)
    for number, entry in enumerate(said, 1):
        if entry and not _holds(store, _entry_key(key, number), entry):
            store.put(_entry_key(key, number), sealed_json(entry), if_absent=False, content_type=JSON)
    if own := [entry for entry in said if entry and ours(entry)]:
        advance(store, key, own[-1], by=by, ours=ours)


def said_before(pointer: Mapping[str, Any], value: Mapping[str, Any], *, by: str) -> bool:
    """Whether a pointer says, or ever said, `value`, or has gone on to a later turn."""
    now, then = _turns(pointer, value)
    return then < now or (then == now and value[by] in [pointer[by], *pointer[PREVIOUS]])


def history(store: ObjectStore, key: str, *, by: str) -> list[dict[str, Any]]:
    """Return all that a pointer ever said, the earliest first.

    Of an entry that cannot be read, what the pointer says of it; {} if that is nothing.
    """
    found = {_number(info.key): info.key for info in store.list(_history_prefix(key))}
    entries = {number: unsealed_object(store.find(entry)) for number, entry in found.items()}
    sound = {number: entry for number, entry in entries.items() if isinstance(entry.get(by), str)}
    most = max(found, default=0)
    told = _told(read_pointer(store, key, by=by), by)
    other = any(number in sound and sound[number][by] != one[by] for number, one in told.items())
    if other or len(told) < most:
        told = _between(sound, told, most, by)
    return [sound.get(number) or told.get(number) or {} for number in range(1, max(most, *told, 0) + 1)]


def _told(pointer: Mapping[str, Any] | None, by: str) -> dict[int, dict[str, Any]]:
    """Return the entries that a pointer tells of: of the last all, of earlier ones what tells them apart."""
    if pointer is None:
        return {}
    last = {name: value for name, value in pointer.items() if name != PREVIOUS}
    said = [*({by: value} for value in reversed(pointer[PREVIOUS])), last]
    return dict(enumerate(said, 1))


def _between(
    sound: Mapping[int, Mapping[str, Any]], told: Mapping[int, dict[str, Any]], most: int, by: str
) -> dict[int, dict[str, Any]]:
    """Say which entries that are not there a pointer tells of, where it leaves out some, another's."""
    values = {entry[by] for entry in sound.values()}
    lost = [one for one in told.values() if one[by] not in values]
    return dict(zip((n for n in range(1, most + len(lost) + 1) if n not in sound), lost, strict=False))


def _is_told(pointer: Mapping[str, Any] | None, said: Sequence[Mapping[str, Any]], by: str) -> bool:
    """Whether a pointer says an entry, and before it nothing but earlier ones; it may leave some out."""
    told = list(_told(pointer, by).values())
    earlier = iter([entry.get(by) for entry in said])
    return bool(told) and told[-1] in said and all(one[by] in earlier for one in told)


def _holds(store: ObjectStore, key: str, entry: Mapping[str, Any]) -> bool:
    return bool(entry) and unsealed_object(store.find(key)) == entry


def inherit(store: ObjectStore, key: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Have a pointer's history begin with what was said elsewhere; call it before every `advance`."""
    for number, entry in enumerate(entries, 1):
        store.put(_entry_key(key, number), sealed_json(entry), content_type=JSON)


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
    known = [entry for entry in said if entry]
    return {**known[-1], PREVIOUS: [entry[by] for entry in reversed(known[:-1])]}


def _turn(value: Mapping[str, Any], name: str = TURN) -> int:
    turn = value.get(name, 0)
    return turn if isinstance(turn, int) else 0


def _history_prefix(key: str) -> str:
    return f"{key.removesuffix('.json')}{_HISTORY}"


def _number(entry_key: str) -> int:
    name = entry_key.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isdecimal() else 0


def _entry_key(key: str, number: int) -> str:
    return f"{_history_prefix(key)}{number:06d}.json"

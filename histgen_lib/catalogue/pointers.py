"""Pointers: the few objects that are written again, to say which of several others holds now.

A case's slides point to their bags, slides and cases to their latest report.

Beside a pointer lies its history, numbered entries written once. Who writes entry n+1 knows all that came
before, since of two writers only one gets the number. So a value that the pointer once had is not news,
whoever brings it again and however late, and a pointer never goes back; unless the value comes in a later
turn, which means that someone wants it back. The pointer is the history's end, for readers. Each holds what
the other says: if one is damaged, it is read from the other.

Earlier versions kept the reports of a case where those of a slide with the case's id lie, under one pointer.
They are still found there: draft.json says whose each report is, and those of others are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from histgen_lib.catalogue.keys import ReportOwner, report_digest
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sealed_json, unsealed_object
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.storage import JSON, ObjectStore

PREVIOUS = "previous"
BY_REPORT, BY_BAG = "report_digest", "bag_digest"
"""The field that tells a pointer's values apart: to the latest report, and to a slide's bag in its case."""
TURN = "turn"
"""The field that counts how often a pointer went back, see `events.SlideScanned`; 0 where it is missing."""
TURNS = "turns"
"""The same by slide id, in the pointer of a case; TURN is their sum."""
Ours = Callable[[Mapping[str, Any]], bool]
"""Whether an entry of a history counts, where several owners share it."""
_HISTORY = ".history/"
_NAMES = ("slide_id", "case_id")
"""The fields that say whose pointer it is."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _all_ours(entry: Mapping[str, Any]) -> bool:
    return True


def advance(
    store: ObjectStore, key: str, value: Mapping[str, Any], *, by: str, ours: Ours = _all_ours
) -> dict[str, Any]:
    """Set the pointer at `key` to `value`, unless it had that value before; return what it says then.

    `by`: the field that tells values apart. Earlier values of it are listed under "previous", the latest
    first. The pointer is right when this returns, also after crashes of others. Raises
    InvalidInputError("names-not-told-apart").
    """
    while True:
        entries = history(store, key, by=by)
        _check_name(entries, value)
        own = [entry for entry in entries if entry and ours(entry)]
        new = not own or not had_before(_pointer(own, by), value, by=by)
        if new:
            if not store.put(_entry_key(key, len(entries) + 1), sealed_json(value), content_type=JSON):
                continue  # another writer got the number
            entries.append(dict(value))
            own.append(dict(value))
        pointer = _pointer(own, by)
        if new or unsealed_object(store.find(key)) != pointer:
            store.put(key, sealed_json(pointer), if_absent=False, content_type=JSON)
        if store.head(_entry_key(key, len(entries) + 1)) is None:
            return pointer  # else there is a newer entry, and this may have overwritten its pointer


def read_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says; None if there is none, or none that can be read."""
    return parse_pointer(store.find(key), by=by)


def parse_pointer(data: bytes | None, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer's bytes say; None if they cannot be read."""
    value = unsealed_object(data)
    previous = value.get(PREVIOUS)
    whole = isinstance(value.get(by), str) and isinstance(previous, list)
    return value if whole and all(isinstance(one, str) for one in previous or ()) else None


def recall_pointer(store: ObjectStore, key: str, *, by: str) -> dict[str, Any] | None:
    """Return what a pointer says, from its history if it is damaged or gone; None if nothing is known."""
    if value := read_pointer(store, key, by=by):
        return value
    entries = history(store, key, by=by)
    return _pointer(entries, by) if any(entries) else None


def pointer_of(key: str) -> str:
    """Return the key of the pointer that an object belongs to: itself, or the one whose history it is in."""
    return f"{key.rpartition(_HISTORY)[0]}.json" if _HISTORY in key else key


def pointer_faults(store: ObjectStore, key: str, *, by: str) -> Iterator[str]:
    """Yield the keys of a pointer and its entries that are missing or do not hold what they should."""
    entries = history(store, key, by=by)
    for number, entry in enumerate(entries, 1):
        if not _holds(store, _entry_key(key, number), entry):
            yield _entry_key(key, number)
    if not _agrees(read_pointer(store, key, by=by), entries, by):
        yield key


def mend_pointer(store: ObjectStore, key: str, *, by: str, ours: Ours = _all_ours) -> None:
    """Write a pointer and the entries of its history again where they are damaged but known."""
    entries = history(store, key, by=by)
    for number, entry in enumerate(entries, 1):
        if entry and not _holds(store, _entry_key(key, number), entry):
            store.put(_entry_key(key, number), sealed_json(entry), if_absent=False, content_type=JSON)
    if own := [entry for entry in entries if entry and ours(entry)]:
        advance(store, key, own[-1], by=by, ours=ours)


def had_before(pointer: Mapping[str, Any], value: Mapping[str, Any], *, by: str) -> bool:
    """Whether a pointer has or once had a value, or has gone on to a later turn."""
    now, then = _turns(pointer, value)
    return then < now or (then == now and value[by] in [pointer[by], *pointer[PREVIOUS]])


def history(store: ObjectStore, key: str, *, by: str) -> list[dict[str, Any]]:
    """Return all entries of a pointer's history, the earliest first.

    An entry that cannot be read is what the pointer says of it; {} if that is nothing.
    """
    listed = {_number(info.key): info.key for info in store.list(_history_prefix(key))}
    entries = {number: unsealed_object(store.find(entry)) for number, entry in listed.items()}
    sound = {number: entry for number, entry in entries.items() if isinstance(entry.get(by), str)}
    last = max(listed, default=0)
    known = _entries_in(read_pointer(store, key, by=by), by)
    differs = any(number in sound and sound[number][by] != one[by] for number, one in known.items())
    if differs or len(known) < last:
        known = _between(sound, known, last, by)
    return [sound.get(number) or known.get(number) or {} for number in range(1, max(last, *known, 0) + 1)]


def _entries_in(pointer: Mapping[str, Any] | None, by: str) -> dict[int, dict[str, Any]]:
    """Return the entries that a pointer names: the last as a whole, of earlier ones the field `by`."""
    if pointer is None:
        return {}
    last = {name: value for name, value in pointer.items() if name != PREVIOUS}
    entries = [*({by: value} for value in reversed(pointer[PREVIOUS])), last]
    return dict(enumerate(entries, 1))


def _between(
    sound: Mapping[int, Mapping[str, Any]], known: Mapping[int, dict[str, Any]], last: int, by: str
) -> dict[int, dict[str, Any]]:
    """Give numbers to the entries that only the pointer has, where it leaves out some of another owner's."""
    values = {entry[by] for entry in sound.values()}
    lost = [one for one in known.values() if one[by] not in values]
    return dict(zip((n for n in range(1, last + len(lost) + 1) if n not in sound), lost, strict=False))


def _agrees(pointer: Mapping[str, Any] | None, entries: Sequence[Mapping[str, Any]], by: str) -> bool:
    """Whether a pointer says what an entry does, and before that only what earlier ones do, if not all."""
    named = list(_entries_in(pointer, by).values())
    earlier = iter([entry.get(by) for entry in entries])
    return bool(named) and named[-1] in entries and all(one[by] in earlier for one in named)


def _holds(store: ObjectStore, key: str, entry: Mapping[str, Any]) -> bool:
    return bool(entry) and unsealed_object(store.find(key)) == entry


def _inherit(store: ObjectStore, key: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Begin a pointer's history with that of another one. To be called before every `advance`."""
    for number, entry in enumerate(entries, 1):
        store.put(_entry_key(key, number), sealed_json(entry), content_type=JSON)


def _check_name(entries: Sequence[Mapping[str, Any]], value: Mapping[str, Any]) -> None:
    """Refuse to write where a store keeps another name's pointer: one that ignores case, for example."""
    for name in _NAMES:
        if any(name in entry and name in value and entry[name] != value[name] for entry in entries):
            raise InvalidInputError(
                "names-not-told-apart",
                f"The store takes {value[name]} for another name under which it keeps something.",
                hint="Give the slide or case a name that differs in more than capitals and accents, or keep "
                "the store on a file system, or in a bucket, that tells such names apart.",
            )


def _turns(pointer: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[int, int]:
    """Return the turns of a pointer and of a value; for cases with different slides, of those in both."""
    now, then = pointer.get(TURNS), value.get(TURNS)
    if not (isinstance(now, dict) and isinstance(then, dict)) or now.keys() == then.keys():
        return _turn(pointer), _turn(value)
    both = now.keys() & then.keys()
    return sum(_turn(now, slide) for slide in both), sum(_turn(then, slide) for slide in both)


def _pointer(entries: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    known = [entry for entry in entries if entry]
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


def set_latest(
    store: ObjectStore, owner: ReportOwner, digest: str, draft_key: str, turns: Mapping[str, int]
) -> None:
    """Set the pointer to the owner's latest report, unless it had that before, or a later one is known.

    `turns`: of each slide that the report covers. Raises InvalidInputError("names-not-told-apart").
    """
    value = {
        "schema": 1,
        "slide_id": owner.id,
        "case_id": owner.id if owner.is_case else None,
        BY_REPORT: digest,
        "draft": draft_key,
        TURN: sum(turns.values()),
        **({TURNS: dict(turns)} if owner.is_case else {}),
    }
    if owner.is_case:
        _inherit_shared(store, owner)
        advance(store, owner.latest, value, by=BY_REPORT)
    else:
        advance(store, owner.latest, value, by=BY_REPORT, ours=lambda entry: _is_kept(store, owner, entry))


def _inherit_shared(store: ObjectStore, case: ReportOwner) -> list[dict[str, Any]]:
    """Begin a case's history with its entries in the pointer of earlier versions; return these."""
    entries = history(store, case.shared_latest, by=BY_REPORT)
    own = [entry for entry in entries if entry and is_of(store, case, entry)]
    _inherit(store, case.latest, own)
    return own


def _is_kept(store: ObjectStore, slide: ReportOwner, entry: Mapping[str, Any]) -> bool:
    """Whether a slide's pointer goes on naming a report; a case's only until that has its own pointer."""
    if is_of(store, slide, entry):
        return True
    case = ReportOwner(slide.id, is_case=True)
    if store.head(case.latest) is None and (own := _inherit_shared(store, case)):
        advance(store, case.latest, own[-1], by=BY_REPORT)
    return False


def pointers_of(owner: ReportOwner) -> list[str]:
    """Return the keys of the pointers that may name the owner's reports, the present version's first."""
    return list(dict.fromkeys((owner.latest, owner.shared_latest)))


def named_drafts(owner: ReportOwner, pointer: Mapping[str, Any]) -> Iterator[str]:
    """Yield where draft.json of every report that a pointer names or named may lie, the latest first.

    Never in another owner's folder, whatever the pointer says.
    """
    previous = pointer.get(PREVIOUS)
    for digest in (pointer.get(BY_REPORT), *(previous if isinstance(previous, list) else ())):
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield from dict.fromkeys(
                f"{prefix}{digest}/{DRAFT_JSON}" for prefix in (owner.prefix, owner.shared_prefix)
            )


def latest_of(store: ObjectStore, owner: ReportOwner, *, damaged: str = "") -> str | None:
    """Return the digest of the owner's latest report that is there and says that it is; None without one.

    `damaged`: the digest of a report that counts as the owner's, though it may not say so any more.
    """
    for pointer in filter(None, (recall_pointer(store, key, by=BY_REPORT) for key in pointers_of(owner))):
        for key in named_drafts(owner, pointer):
            if report_digest(key) == damaged or stated_owner(store.find(key)) == owner:
                return report_digest(key)
    return None


def is_about(owner: ReportOwner, draft: Mapping[str, Any]) -> bool:
    """Return whether a draft.json says that it is the report of this slide or case."""
    return draft.get("slide_id") == owner.id and draft.get("case_id") == (owner.id if owner.is_case else None)


def stated_owner(draft_json: bytes | None) -> ReportOwner | None:
    """Return whose report a draft.json says it is; None if it does not."""
    draft = unsealed_object(draft_json)
    slide_id, case_id = draft.get("slide_id"), draft.get("case_id")
    return ReportOwner(slide_id, case_id is not None) if isinstance(slide_id, str) else None


def is_of(store: ObjectStore, owner: ReportOwner, entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of a pointer is about a report of the owner's.

    For old entries, which do not say it, the report is read; one that no longer exists counts as the slide's.
    """
    if "case_id" in entry:
        return is_about(owner, entry)
    found = (store.find(key) for key in named_drafts(owner, {BY_REPORT: entry.get(BY_REPORT)}))
    drafts = [unsealed_object(data) for data in found if data]
    return any(is_about(owner, draft) for draft in drafts) if drafts else not owner.is_case

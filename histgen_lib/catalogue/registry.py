"""The registry of slides: which slide owns an id, and every event that announced one.

Each slide.scanned event is stored twice: as its slide's latest, and under the bytes that it announced or,
where the gateway did not announce it, among those published by hand. What one record no longer says, because
it is damaged or gone, is recovered from the others.

The gateway records what it announces. A slide whose event somebody else published is recorded by the tiler,
by the same rule: an id belongs to the slide that came with it first.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.integrity import Fault
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.storage import JSON, ObjectInfo, ObjectStore

_TURN = "turn"
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Announcement:
    """A slide's event as the registry has it. `data`: the event's, in the turn that it was recorded in."""

    event: Event
    data: SlideScanned

    def to_bytes(self) -> bytes:
        """Return sealed JSON."""
        assert isinstance(self.event.data, SlideScanned)
        value: dict[str, Any] = {"event": self.event.to_json()}
        if self.data.turn != self.event.data.turn:
            value[_TURN] = self.data.turn
        return sealed_json(value)

    @property
    def content_key(self) -> str:
        """The key of this event among those that announced the same bytes."""
        assert isinstance(self.event.data, SlideScanned)
        return f"{keys.contents_prefix(self.event.data.content_id)}{self.event.name}.json"

    @property
    def by_hand_key(self) -> str:
        """The key of this event among those of its slide that were published by hand."""
        return keys.by_hand_key(self.event.key, self.event.name)

    @property
    def is_by_hand(self) -> bool:
        """Whether it was published by anything but one of our services."""
        return not self.event.is_ours


@dataclass(frozen=True)
class Owner:
    """The slide that owns an id: the URI that came with the id first, and the bytes it had then."""

    uri: str
    content_id: str

    def to_bytes(self, slide_id: str) -> bytes:
        """Return sealed JSON."""
        return sealed_json({"schema": 1, "slide_id": slide_id, **asdict(self)})


NOBODY = Owner("", "")
"""Owns an id whose record is another id's: the store does not tell the two names apart."""


@dataclass(frozen=True)
class SlideRecord:
    """A slide, its latest event as far as any record says it, and what is wrong with its own record."""

    slide_id: str
    event: Event | None
    damaged: tuple[str, ...] = ()


def read_announcement(data: bytes | None, slide_id: str = "") -> Announcement | None:
    """Read an event out of the registry; None if it is not one of this slide's ("": of any slide)."""
    try:
        record = unsealed(data or b"")
        event = Event.from_json(record["event"])
    except (InvalidInputError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(event.data, SlideScanned) or slide_id not in ("", event.key):
        return None
    turn = record.get(_TURN)
    return Announcement(event, replace(event.data, turn=turn) if isinstance(turn, int) else event.data)


def latest_announcement(store: ObjectStore, slide_id: str) -> Announcement | None:
    """Return a slide's latest event, recovered if its record is damaged; None if there is no record."""
    data = store.find(keys.scanned_key(slide_id))
    if data is None:
        return None
    return read_announcement(data, slide_id) or recover_announcement(store, slide_id, data)


def latest_event(store: ObjectStore, slide_id: str) -> Event | None:
    """Return the event of `latest_announcement`."""
    latest = latest_announcement(store, slide_id)
    return latest.event if latest else None


def find_announcement(store: ObjectStore, slide_id: str) -> Announcement | None:
    """Return a slide's latest event, recovered if its record is damaged or gone."""
    data = store.find(keys.scanned_key(slide_id))
    return read_announcement(data, slide_id) or recover_announcement(store, slide_id, data or b"")


def covering_owner(store: ObjectStore, slide_id: str) -> keys.ReportOwner | None:
    """Return whose report covers a slide, by its latest event; None if nobody announced it."""
    found = find_announcement(store, slide_id)
    return keys.ReportOwner.of(found.data) if found else None


def find_event(store: ObjectStore, slide_id: str) -> Event | None:
    """Return the event of `find_announcement`."""
    found = find_announcement(store, slide_id)
    return found.event if found else None


def recover_announcement(store: ObjectStore, slide_id: str, left: bytes = b"") -> Announcement | None:
    """Find a slide's latest event without its record; None if no other record has one.

    `left`: what the damaged record holds. Where a rescan has no bag and `left` does not name its bytes, the
    scan before it is returned.
    """
    return max(other_announcements(store, slide_id, left), key=_order, default=None)


def other_announcements(store: ObjectStore, slide_id: str, left: bytes = b"") -> list[Announcement]:
    """Return all events of a slide that are recorded elsewhere than as its latest."""
    by_hand = [info.key for info in store.list(keys.by_hand_prefix(slide_id))]
    found = [one for key in by_hand if (one := read_announcement(store.find(key), slide_id))]
    for content_id in _contents_of(store, slide_id, left):
        found += [one for one in _with_content(store, content_id) if one.event.key == slide_id]
    return found


def _contents_of(store: ObjectStore, slide_id: str, left: bytes) -> set[str]:
    """Return the content ids with which a slide may have been announced."""
    owner = read_owner(store.find(keys.owner_key(slide_id)), slide_id)
    found = {digest.decode() for digest in _DIGEST.findall(left)} | ({owner.content_id} if owner else set())
    return found | set(_bagged(store, slide_id))


def _bagged(store: ObjectStore, slide_id: str) -> Iterator[str]:
    for info in store.list(keys.bags_prefix(slide_id)):
        if info.key.endswith(keys.SCAN_RECORD):
            try:
                yield str(json.loads(store.find(info.key) or b"")["content_id"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue


def _with_content(store: ObjectStore, content_id: str) -> Iterator[Announcement]:
    try:
        listed = [info.key for info in store.list(keys.contents_prefix(content_id))]
    except InvalidInputError:  # damaged: it cannot be part of a key
        return
    for key in listed:
        found = read_announcement(store.find(key))
        if found and found.content_key == key:
            yield found


def _order(one: Announcement) -> tuple[int, object, str]:
    return one.data.turn, one.event.time, one.event.id


def absent_record(slide_id: str) -> ObjectInfo:
    """Stand in for the record of a slide that has none, though its id is owned. It has no etag."""
    return ObjectInfo(keys.scanned_key(slide_id), 0, "", 0.0)


def read_record(store: ObjectStore, info: ObjectInfo, data: bytes) -> SlideRecord | None:
    """Read a slide's record, which may be damaged or an `absent_record`; None if it was never announced."""
    slide_id = keys.slide_of_scanned(info.key)
    if sound := read_announcement(data, slide_id):
        return SlideRecord(slide_id, sound.event)
    recovered = recover_announcement(store, slide_id, data)
    if recovered is None and not info.etag:
        return None
    fault = f"{info.key} {Fault.UNREADABLE if info.etag else Fault.MISSING}"
    return SlideRecord(slide_id, recovered.event if recovered else None, (fault,))


def read_owner(data: bytes | None, slide_id: str) -> Owner | None:
    """Read which slide owns an id; None if that cannot be read."""
    try:
        value = unsealed(data or b"")
        found = Owner(str(value["uri"]), str(value["content_id"]))
        return found if value.get("slide_id", slide_id) == slide_id else NOBODY
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def find_owner(store: ObjectStore, slide_id: str) -> Owner | None:
    """Return the slide that owns an id; None if the id is free."""
    return read_owner(store.find(keys.owner_key(slide_id)), slide_id) or inferred_owner(store, slide_id)


def inferred_owner(store: ObjectStore, slide_id: str) -> Owner | None:
    """Return the slide that must own an id whose record is damaged or gone; None if the id is free.

    An event published by hand may name any id: it counts once its slide was read.
    """
    latest = latest_announcement(store, slide_id)
    if latest and latest.is_by_hand and store.head(latest.content_key) is None:
        others = [one for one in other_announcements(store, slide_id) if store.head(one.content_key)]
        latest = max(others, key=_order, default=None)
    return Owner(latest.data.uri, latest.data.content_id) if latest else None


def claim(store: ObjectStore, slide_id: str, owner: Owner) -> Owner:
    """Take a slide id unless it is owned; return its owner."""
    key = keys.owner_key(slide_id)
    if found := read_owner(store.find(key), slide_id):
        return found
    first = inferred_owner(store, slide_id) or owner
    record = first.to_bytes(slide_id)
    if store.put(key, record, content_type=JSON):
        return first
    if found := read_owner(store.find(key), slide_id):
        return found
    store.put(key, record, if_absent=False, content_type=JSON)  # it is damaged
    return first


def write_down(store: ObjectStore, event: Event) -> None:
    """Record an event that the broker has. The record under its bytes comes last: it says "announced"."""
    assert isinstance(event.data, SlideScanned)
    one = Announcement(event, event.data)
    store.put(keys.scanned_key(event.key), one.to_bytes(), if_absent=False, content_type=JSON)
    store.put(one.content_key, one.to_bytes(), content_type=JSON)


def take_in(store: ObjectStore, event: Event) -> SlideScanned:
    """Record, once, a slide that the gateway did not announce; return what is to be done, in its turn.

    An event may name anything: id and bytes are its slide's only once that was read (`keep`). Raises
    InvalidInputError: "slide-id-invalid", "slide-id-taken".
    """
    assert isinstance(event.data, SlideScanned)
    data, one = event.data, Announcement(event, event.data)
    key = one.by_hand_key if one.is_by_hand else one.content_key
    if known := read_announcement(store.find(key), event.key):
        return known.data
    if one.is_by_hand:
        for name in (data.slide_id, data.case_id or data.slide_id, *data.case_slides):
            check_name(name)
    if owner := find_owner(store, data.slide_id):
        _refuse_other(store, data, owner)
    one = replace(one, data=replace(data, turn=_turn_of(one, latest_announcement(store, event.key))))
    if one.is_by_hand and not event.replay:
        store.put(keys.scanned_key(event.key), one.to_bytes(), if_absent=False, content_type=JSON)
        store.put(key, one.to_bytes(), content_type=JSON)
    else:  # the gateway records its own; of a replayed one that was done before
        store.put(keys.scanned_key(event.key), one.to_bytes(), content_type=JSON)
    return one.data


def keep(store: ObjectStore, event: Event, data: SlideScanned) -> None:
    """Have a slide that was read own its id, and be known by its bytes. `data`: what was read.

    Raises InvalidInputError("slide-id-taken") if another slide owns the id.
    """
    _refuse_other(store, data, claim(store, data.slide_id, Owner(data.uri, data.content_id)))
    assert isinstance(event.data, SlideScanned)
    one = Announcement(event, data)
    if one.is_by_hand and not event.replay and data.content_id == event.data.content_id:
        store.put(one.content_key, one.to_bytes(), content_type=JSON)


def taken(slide_id: str) -> InvalidInputError:
    """Make the error for an id that another slide owns."""
    return InvalidInputError(
        "slide-id-taken",
        f"The slide id {slide_id} belongs to another slide, from another place.",
        hint="Rename the file, or state another slide_id, and send it again. To replace a slide by a new "
        "scan, put the new file where the old one was.",
    )


def _refuse_other(store: ObjectStore, data: SlideScanned, owner: Owner) -> None:
    """Refuse other bytes from another place under an id: two slides must never be mixed."""
    if owner.uri == data.uri or owner.content_id == data.content_id:
        return
    same = (store.get(info.key) for info in store.list(keys.contents_prefix(data.content_id)))
    if not any(read_announcement(record, data.slide_id) for record in same):
        raise taken(data.slide_id)  # else the slide once had these bytes, and has moved


def check_name(name: str) -> None:
    """Refuse an id that looks like another one, or that some stores take for another one.

    Raises InvalidInputError("slide-id-invalid").
    """
    plain = name.isprintable() and name == name.strip() and unicodedata.normalize("NFC", name) == name
    if not plain or name.endswith("."):
        raise InvalidInputError(
            "slide-id-invalid",
            "The id of the slide, of its case or of a slide of that case could be taken for another.",
            hint="End it with neither blanks nor dots, use no invisible characters, and write accented "
            "letters as one character (Unicode's form NFC).",
        )


def _turn_of(one: Announcement, latest: Announcement | None) -> int:
    """Return the turn of an event after the latest one; each event published by hand is one of its own."""
    event, turn = one.event, one.data.turn
    if latest is None:
        return turn
    if latest.event.name == event.name or (latest.event.trace_id == event.trace_id and event.replay):
        return max(turn, latest.data.turn)
    return max(turn, latest.data.turn + 1) if one.is_by_hand and not event.replay else turn

"""The gateway's books, read from each other: what one of them says that is damaged or gone, others say, too.

Every event lies twice in the store: as the slide's latest, and under the bytes it was announced with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned, recorded_scan
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.pipeline.digests import Fault
from histgen_lib.pipeline.keys import bags_prefix, case_prefix, contents_prefix, owner_key, scanned_key
from histgen_lib.pipeline.made import JSON, read_object
from histgen_lib.pipeline.pointer import pointer_of
from histgen_lib.storage import ObjectInfo, ObjectStore

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Scan:
    """A slide, its latest event if that is known from wherever, and what is wrong with the record of it."""

    slide_id: str
    event: Event | None
    damaged: tuple[str, ...] = ()


def gone(slide_id: str) -> ObjectInfo:
    """Stand in for the record of a slide that has none, though somebody has its id."""
    return ObjectInfo(scanned_key(slide_id), 0, "", 0.0)


def slide_of(info: ObjectInfo) -> str:
    """Return whose record it is."""
    return info.key.removeprefix("slides/").removesuffix("/scanned.json")


def read_scan(store: ObjectStore, info: ObjectInfo, data: bytes) -> Scan | None:
    """Read the record of a slide, which may be damaged or `gone`; None if nobody announced it yet."""
    slide_id = slide_of(info)
    if event := own_scan(slide_id, data):
        return Scan(slide_id, event)
    event = recalled_scan(store, slide_id, data)
    if event is None and not info.etag:
        return None
    return Scan(slide_id, event, (f"{info.key} {Fault.UNREADABLE if info.etag else Fault.MISSING}",))


def scan_of(store: ObjectStore, slide_id: str) -> Event | None:
    """Return a slide's latest event; where its record is damaged, what else tells of it."""
    data = read_object(store, scanned_key(slide_id))
    return own_scan(slide_id, data) or recalled_scan(store, slide_id, data or b"")


def own_scan(slide_id: str, data: bytes | None) -> Event | None:
    """Read the record of a slide's latest event; None for anything else, and for another slide's."""
    event = recorded_scan(data or b"")
    return event if event and event.key == slide_id else None


def recalled_scan(store: ObjectStore, slide_id: str, left: bytes = b"") -> Event | None:
    """Find a slide's latest event without its record, of which some bytes may be `left`; None if it has none.

    A rescan of which there is neither a bag nor a word in `left` is not found, but the scan before it.
    """
    found = [
        event for content_id in _contents_of(store, slide_id, left) for event in _announced(store, content_id)
    ]
    own = [event for event in found if event.key == slide_id]
    return max(own, key=_order, default=None)


def report_owner(slide: SlideScanned) -> str:
    """Return whose report tells of a slide: its own, or its case's if the case has slides to wait for."""
    return slide.case_id if slide.case_id and slide.case_slides else slide.slide_id


def events_of(store: ObjectStore, owner: str) -> list[Event]:
    """Return the latest events of the slides that a report tells of, by whose report it is."""
    prefix = case_prefix(owner)
    listed = {pointer_of(info.key) for info in store.list(prefix)}
    mates = {key.removeprefix(prefix).removesuffix(".json") for key in listed}
    found = [event for slide_id in sorted({owner, *mates}) if (event := scan_of(store, slide_id))]
    return [one for one in found if isinstance(one.data, SlideScanned) and report_owner(one.data) == owner]


def owner_of(store: ObjectStore, slide_id: str) -> dict[str, str] | None:
    """Return the URI and the content that a slide's id belongs to; None where that cannot be read."""
    data = read_object(store, owner_key(slide_id))
    try:
        value = unsealed(data or b"")
        return {"uri": str(value["uri"]), "content_id": str(value["content_id"])}
    except (ValueError, TypeError, KeyError):
        return None


def restore_owner(store: ObjectStore, event: Event) -> None:
    """Write down whose a slide's id is, as its event says."""
    assert isinstance(event.data, SlideScanned)
    owner = {"schema": 1, "uri": event.data.uri, "content_id": event.data.content_id}
    store.put(owner_key(event.key), sealed_json(owner), if_absent=False, content_type=JSON)


def restore_scan(store: ObjectStore, event: Event) -> None:
    """Write an event down where the gateway does: as the slide's latest, and under its bytes."""
    line = sealed_json({"event": event.to_json()})
    store.put(scanned_key(event.key), line, if_absent=False, content_type=JSON)
    store.put(content_key(event), line, if_absent=False, content_type=JSON)


def content_key(event: Event) -> str:
    """Return the key under which an event lies among those announced with its bytes."""
    assert isinstance(event.data, SlideScanned)
    return f"{contents_prefix(event.data.content_id)}{event.id}.json"


def _contents_of(store: ObjectStore, slide_id: str, left: bytes) -> set[str]:
    """Name the bytes that a slide may have been announced with."""
    owner = owner_of(store, slide_id)
    found = {digest.decode() for digest in _DIGEST.findall(left)} | (
        {owner["content_id"]} if owner else set()
    )
    return found | set(_bagged(store, slide_id))


def _bagged(store: ObjectStore, slide_id: str) -> Iterator[str]:
    for info in store.list(bags_prefix(slide_id)):
        if info.key.endswith(".scan.json"):
            try:
                yield str(json.loads(read_object(store, info.key) or b"")["content_id"])
            except (ValueError, TypeError, KeyError):
                continue


def _announced(store: ObjectStore, content_id: str) -> Iterator[Event]:
    try:
        keys = [info.key for info in store.list(contents_prefix(content_id))]
    except InvalidInputError:  # a damaged word that is no part of a key
        return
    for key in keys:
        event = recorded_scan(read_object(store, key) or b"")
        if event and content_key(event) == key:
            yield event


def _order(event: Event) -> tuple[int, object, str]:
    assert isinstance(event.data, SlideScanned)
    return event.data.turn, event.time, event.id

"""What the gateway remembers, in the object store: who owns an id, what was announced, what it looked at.

slides/<slide_id>/scanned.json            the slide's latest slide.scanned event
gateway/owners/<slide_id>                 the URI that a slide id belongs to, claimed before the first event
gateway/contents/<content_id>/<event>     every event announced with these bytes: the index by content
gateway/copies/<name>/<slide_id>          a file called <name> that holds the slide's bytes, by its URI
gateway/seen/<mark>                       a file or object in a state that needs no second look
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from histgen_lib.events import Event, SlideScanned, recorded_scan
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.pipeline.keys import SEEN, contents_prefix, copy_key, owner_key, scanned_key
from histgen_lib.pipeline.made import read_object
from histgen_lib.stack.recovery import own_scan, owner_of, recalled_scan
from histgen_lib.storage import ObjectStore

_JSON = "application/json"


@dataclass(frozen=True)
class Owner:
    """Whose a slide id is: the URI that came first with it, and the bytes it had then."""

    uri: str
    content_id: str


@dataclass(frozen=True)
class Announced:
    """An event that was acknowledged by the broker, and its data."""

    event: Event
    data: SlideScanned


class Ledger:
    """Reads and writes these objects. Raises what the object store raises."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, slide_id: str, owner: Owner) -> Owner:
        """Take a slide id, unless someone has it; return whose it is.

        Where that cannot be read any more, it is whose slide was announced with it: never whoever comes next.
        """
        key = owner_key(slide_id)
        new = self._store.put(key, _claim(owner), content_type=_JSON)
        found = None if new else owner_of(self._store, slide_id)
        if found is not None:
            return Owner(**found)
        latest = self.latest(slide_id)
        first = Owner(latest.data.uri, latest.data.content_id) if latest else owner
        if first != owner or not new:
            self._store.put(key, _claim(first), if_absent=False, content_type=_JSON)
        return first

    def latest(self, slide_id: str) -> Announced | None:
        """Return the slide's latest event, from the others if the record of it is damaged."""
        data = read_object(self._store, scanned_key(slide_id))
        event = own_scan(slide_id, data)
        if event is None and data is not None:
            event = recalled_scan(self._store, slide_id, data)
        return _announced(event)

    def with_content(self, content_id: str) -> list[Announced]:
        """Return the events announced with these bytes, under whatever slide id, oldest first."""
        keys = [info.key for info in self._store.list(contents_prefix(content_id))]
        events = [found for found in map(self._event, keys) if found is not None]
        return sorted(events, key=lambda found: (found.event.time, found.event.id))

    def record(self, event: Event) -> None:
        """Write an acknowledged event down; the index comes last, since it is what says "announced"."""
        assert isinstance(event.data, SlideScanned)
        line = sealed_json({"event": event.to_json()})
        self._store.put(scanned_key(event.key), line, if_absent=False, content_type=_JSON)
        self._store.put(f"{contents_prefix(event.data.content_id)}{event.id}.json", line, content_type=_JSON)

    def name_copy(self, name: str, slide_id: str, uri: str) -> str:
        """Note that a file called `name` is this slide; return the note's key if it is new, else ""."""
        key = copy_key(name, slide_id)
        note = sealed_json({"schema": 1, "slide_id": slide_id, "uri": uri})
        return key if self._store.put(key, note, content_type=_JSON) else ""

    def remember(self, mark: str, slide_id: str, event_id: str) -> None:
        """Note that a file or object in this state was dealt with."""
        note = sealed_json({"slide_id": slide_id, "event_id": event_id})
        self._store.put(SEEN + mark, note, if_absent=False, content_type=_JSON)

    def seen(self, mark: str) -> tuple[str, str] | None:
        """Return the slide id and event id noted for this state; a damaged note is none."""
        note = _parsed(read_object(self._store, SEEN + mark))
        if not {"slide_id", "event_id"} <= set(note):
            return None
        return str(note["slide_id"]), str(note["event_id"])

    def all_seen(self) -> Iterator[str]:
        """List every state that was dealt with."""
        return (info.key.removeprefix(SEEN) for info in self._store.list(SEEN))

    def _event(self, key: str) -> Announced | None:
        """Read an event; None if there is none, or none that this software can read."""
        return _announced(recorded_scan(read_object(self._store, key) or b""))


def _announced(event: Event | None) -> Announced | None:
    return Announced(event, event.data) if event and isinstance(event.data, SlideScanned) else None


def _claim(owner: Owner) -> bytes:
    return sealed_json({"schema": 1, **asdict(owner)})


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        found = unsealed(data or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""What the gateway remembers, in the object store: who owns an id, what was announced, what it looked at.

slides/<slide_id>/scanned.json            the slide's latest slide.scanned event
gateway/owners/<slide_id>                 the URI that a slide id belongs to, claimed before the first event
gateway/contents/<content_id>/<event>     every event announced with these bytes: the index by content
gateway/copies/<name>/<slide_id>          a file called <name> that holds the slide's bytes, by its URI
gateway/seen/<mark>                       a file or object in a state that needs no second look
"""

from __future__ import annotations

from collections.abc import Iterator

from histgen_lib.catalogue.keys import SEEN, contents_prefix, copy_key
from histgen_lib.catalogue.registry import (
    Announcement,
    Owner,
    claim,
    latest_announcement,
    read_announcement,
    write_down,
)
from histgen_lib.events import Event
from histgen_lib.files import sealed_json, unsealed_object
from histgen_lib.storage import JSON, ObjectStore


class Ledger:
    """Reads and writes these objects. Raises what the object store raises."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, slide_id: str, owner: Owner) -> Owner:
        """Take a slide id, unless someone has it; return whose it is."""
        return claim(self._store, slide_id, owner)

    def latest(self, slide_id: str) -> Announcement | None:
        """Return the slide's latest event, from the others if the record of it is damaged."""
        return latest_announcement(self._store, slide_id)

    def with_content(self, content_id: str) -> list[Announcement]:
        """Return the events announced with these bytes, under whatever slide id, oldest first."""
        keys = [info.key for info in self._store.list(contents_prefix(content_id))]
        events = [found for key in keys if (found := read_announcement(self._store.find(key)))]
        return sorted(events, key=lambda found: (found.event.time, found.event.id))

    def record(self, event: Event) -> None:
        """Write an acknowledged event down; the index comes last, since it is what says "announced"."""
        write_down(self._store, event)

    def name_copy(self, name: str, slide_id: str, uri: str) -> str:
        """Note that a file called `name` is this slide; return the note's key if it is new, else ""."""
        key = copy_key(name, slide_id)
        note = sealed_json({"schema": 1, "slide_id": slide_id, "uri": uri})
        return key if self._store.put(key, note, content_type=JSON) else ""

    def remember(self, mark: str, slide_id: str, event_id: str) -> None:
        """Note that a file or object in this state was dealt with."""
        note = sealed_json({"slide_id": slide_id, "event_id": event_id})
        self._store.put(SEEN + mark, note, if_absent=False, content_type=JSON)

    def seen(self, mark: str) -> tuple[str, str] | None:
        """Return the slide id and event id noted for this state; a damaged note is none."""
        note = unsealed_object(self._store.find(SEEN + mark))
        if not {"slide_id", "event_id"} <= set(note):
            return None
        return str(note["slide_id"]), str(note["event_id"])

    def all_seen(self) -> Iterator[str]:
        """List every state that was dealt with."""
        return (info.key.removeprefix(SEEN) for info in self._store.list(SEEN))

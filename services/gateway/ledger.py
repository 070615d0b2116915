"""What the gateway remembers, in the object store: who owns an id, what was announced, what it looked at.

slides/<slide_id>/scanned.json            the slide's latest slide.scanned event
gateway/owners/<slide_id>                 the URI that a slide id belongs to, claimed before the first event
gateway/contents/<content_id>/<event>     every event announced with these bytes: the index by content
gateway/copies/<name>/<slide_id>          a file called <name> that holds the slide's bytes, by its URI
gateway/seen/<mark>                       a file or object in a state that needs no second look
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import canonical_json
from histgen_lib.pipeline.books import Owner, claim, recorded_in, write_down
from histgen_lib.pipeline.keys import contents_prefix, copy_key, scanned_key
from histgen_lib.pipeline.made import read_object
from histgen_lib.storage import ObjectStore

_SEEN = "gateway/seen/"
_JSON = "application/json"


@dataclass(frozen=True)
class Announced:
    """An event that was acknowledged by the broker, and what it says, in its turn."""

    event: Event
    data: SlideScanned


class Ledger:
    """Reads and writes these objects. Raises what the object store raises."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, slide_id: str, owner: Owner) -> Owner:
        """Take a slide id, unless someone has it; return whose it is."""
        return claim(self._store, slide_id, owner)

    def latest(self, slide_id: str) -> Announced | None:
        """Return the slide's latest event."""
        return self._event(scanned_key(slide_id), slide_id)

    def with_content(self, content_id: str) -> list[Announced]:
        """Return the events announced with these bytes, under whatever slide id, oldest first."""
        keys = [info.key for info in self._store.list(contents_prefix(content_id))]
        events = [found for found in map(self._event, keys) if found is not None]
        return sorted(events, key=lambda found: (found.event.time, found.event.id))

    def record(self, event: Event) -> None:
        """Write an acknowledged event down; the index comes last, since it is what says "announced"."""
        assert isinstance(event.data, SlideScanned)
        write_down(self._store, event, event.data.turn)

    def name_copy(self, name: str, slide_id: str, uri: str) -> str:
        """Note that a file called `name` is this slide; return the note's key if it is new, else ""."""
        key = copy_key(name, slide_id)
        note = canonical_json({"schema": 1, "slide_id": slide_id, "uri": uri})
        return key if self._store.put(key, note, content_type=_JSON) else ""

    def remember(self, mark: str, slide_id: str, event_id: str) -> None:
        """Note that a file or object in this state was dealt with."""
        note = canonical_json({"slide_id": slide_id, "event_id": event_id})
        self._store.put(_SEEN + mark, note, content_type=_JSON)

    def seen(self, mark: str) -> tuple[str, str] | None:
        """Return the slide id and event id noted for this state."""
        if self._store.head(_SEEN + mark) is None:
            return None
        note = self._read(_SEEN + mark)
        return str(note.get("slide_id")), str(note.get("event_id"))

    def all_seen(self) -> Iterator[str]:
        """List every state that was dealt with."""
        return (info.key.removeprefix(_SEEN) for info in self._store.list(_SEEN))

    def _event(self, key: str, slide_id: str = "") -> Announced | None:
        """Read an event, the slide's if one is named; None if there is none that can be read."""
        found = recorded_in(read_object(self._store, key) or b"", slide_id)
        return Announced(*found) if found else None

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found = json.loads(self._store.get(key))
        except InvalidInputError as error:
            if error.code != "object-missing":
                raise
            return {}
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

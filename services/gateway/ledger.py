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

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.pipeline.keys import SEEN, contents_prefix, copy_key, owner_key, scanned_key
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
        """Take a slide id, unless someone has it; return whose it is."""
        key = owner_key(slide_id)
        claim = sealed_json({"schema": 1, **asdict(owner)})
        if self._store.put(key, claim, content_type=_JSON):
            return owner
        found = self._read(key)
        if not {"uri", "content_id"} <= set(found):  # damaged
            self._store.put(key, claim, if_absent=False, content_type=_JSON)
            return owner
        return Owner(str(found["uri"]), str(found["content_id"]))

    def latest(self, slide_id: str) -> Announced | None:
        """Return the slide's latest event."""
        return self._event(scanned_key(slide_id))

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
        if self._store.head(SEEN + mark) is None:
            return None
        note = self._read(SEEN + mark)
        if not {"slide_id", "event_id"} <= set(note):
            return None
        return str(note["slide_id"]), str(note["event_id"])

    def all_seen(self) -> Iterator[str]:
        """List every state that was dealt with."""
        return (info.key.removeprefix(SEEN) for info in self._store.list(SEEN))

    def _event(self, key: str) -> Announced | None:
        """Read an event; None if there is none, or none that this software can read."""
        try:
            event = Event.from_json(self._read(key)["event"])
        except (InvalidInputError, KeyError):
            return None
        return Announced(event, event.data) if isinstance(event.data, SlideScanned) else None

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found = unsealed(self._store.get(key))
        except InvalidInputError as error:
            if error.code != "object-missing":
                raise
            return {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

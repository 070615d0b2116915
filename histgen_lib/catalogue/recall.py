"""What the books say, read from each other: what one record says that is damaged or gone, others say, too.

Every event lies twice in the store: as the slide's latest, and under the bytes it was announced with, or,
where the gateway did not announce it, among those published by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from histgen_lib.catalogue import keys
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.storage import ObjectStore

_TURN = "turn"
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Said:
    """An event of a slide as the books have it. `data`: what it says, in its turn."""

    event: Event
    data: SlideScanned

    def to_bytes(self) -> bytes:
        """Write it as the books do."""
        assert isinstance(self.event.data, SlideScanned)
        told: dict[str, Any] = {"event": self.event.to_json()}
        return sealed_json(told if self.data.turn == self.event.data.turn else told | {_TURN: self.data.turn})

    @property
    def content_key(self) -> str:
        """The key under which it lies among the events that were announced with its bytes."""
        assert isinstance(self.event.data, SlideScanned)
        return f"{keys.contents_prefix(self.event.data.content_id)}{self.event.name}.json"

    @property
    def by_hand_key(self) -> str:
        """The key under which it lies among the slide's that were published by hand."""
        return keys.taken_key(self.event.key, self.event.name)

    @property
    def is_by_hand(self) -> bool:
        """Whether somebody else than a service of ours has published it."""
        return is_by_hand(self.event)


@dataclass(frozen=True)
class Owner:
    """Whose a slide id is: the URI that came first with it, and the bytes it had then."""

    uri: str
    content_id: str

    def to_bytes(self, slide_id: str) -> bytes:
        """Write it as the books do."""
        return sealed_json({"schema": 1, "slide_id": slide_id, **asdict(self)})


NOBODY = Owner("", "")
"""Has what lies under a name that the store does not tell from ours."""


def is_by_hand(event: Event) -> bool:
    """Whether somebody else than a service of ours has published an event."""
    return not event.is_ours


def said_in(data: bytes | None, slide_id: str = "") -> Said | None:
    """Read an event out of the books; None if it is none of the slide's (`slide_id`: "" for any)."""
    try:
        record = unsealed(data or b"")
        event = Event.from_json(record["event"])
    except (InvalidInputError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(event.data, SlideScanned) or slide_id not in ("", event.key):
        return None
    turn = record.get(_TURN)
    return Said(event, replace(event.data, turn=turn) if isinstance(turn, int) else event.data)


def said_last(store: ObjectStore, slide_id: str) -> Said | None:
    """Return the slide's latest event, from the others if its record is damaged; None if it has none."""
    data = store.find(keys.scanned_key(slide_id))
    return said_in(data, slide_id) or (None if data is None else recalled(store, slide_id, data))


def recorded_of(store: ObjectStore, slide_id: str) -> Event | None:
    """Look up the slide.scanned event that was announced of a slide last; None if there is none."""
    said = said_last(store, slide_id)
    return said.event if said else None


def recalled(store: ObjectStore, slide_id: str, left: bytes = b"") -> Said | None:
    """Find a slide's latest event without its record, of which some bytes may be `left`; None if it has none.

    A rescan of which there is neither a bag nor a word in `left` is not found, but the scan before it.
    """
    return max(elsewhere(store, slide_id, left), key=_order, default=None)


def elsewhere(store: ObjectStore, slide_id: str, left: bytes = b"") -> list[Said]:
    """Return all events of a slide that are found beside the record of its latest."""
    by_hand = [info.key for info in store.list(keys.taken_prefix(slide_id))]
    found = [said for key in by_hand if (said := said_in(store.find(key), slide_id))]
    for content_id in _contents_of(store, slide_id, left):
        found += [said for said in _announced(store, content_id) if said.event.key == slide_id]
    return found


def owner_in(data: bytes | None, slide_id: str) -> Owner | None:
    """Read whose an id is; None if there is nothing that can be read."""
    try:
        value = unsealed(data or b"")
        found = Owner(str(value["uri"]), str(value["content_id"]))
        return found if value.get("slide_id", slide_id) == slide_id else NOBODY
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def owner_of(store: ObjectStore, slide_id: str) -> Owner | None:
    """Say whose an id is; None if nobody has it."""
    found = owner_in(store.find(keys.owner_key(slide_id)), slide_id)
    return found or announced_owner(store, slide_id)


def announced_owner(store: ObjectStore, slide_id: str) -> Owner | None:
    """Say whose an id must be of which that cannot be read: whose slide was announced with it; None if none.

    An event by anybody may name anything: it counts once its slide was read.
    """
    said = said_last(store, slide_id)
    if said and said.is_by_hand and store.head(said.content_key) is None:
        others = [one for one in elsewhere(store, slide_id) if store.head(one.content_key)]
        said = max(others, key=_order, default=None)
    return Owner(said.data.uri, said.data.content_id) if said else None


def _contents_of(store: ObjectStore, slide_id: str, left: bytes) -> set[str]:
    """Name the bytes that a slide may have been announced with."""
    owner = owner_in(store.find(keys.owner_key(slide_id)), slide_id)
    found = {digest.decode() for digest in _DIGEST.findall(left)} | ({owner.content_id} if owner else set())
    return found | set(_bagged(store, slide_id))


def _bagged(store: ObjectStore, slide_id: str) -> Iterator[str]:
    for info in store.list(keys.bags_prefix(slide_id)):
        if info.key.endswith(".scan.json"):
            try:
                yield str(json.loads(store.find(info.key) or b"")["content_id"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue


def _announced(store: ObjectStore, content_id: str) -> Iterator[Said]:
    try:
        listed = [info.key for info in store.list(keys.contents_prefix(content_id))]
    except InvalidInputError:  # a damaged word that is no part of a key
        return
    for key in listed:
        said = said_in(store.find(key))
        if said and said.content_key == key:
            yield said


def _order(said: Said) -> tuple[int, object, str]:
    return said.data.turn, said.event.time, said.event.id

"""Events that follow from an object that a person had written: none is lost, whoever dies in between.

A note of the event is written first, then the object, then the event is published, then the note removed. A
note that is still there after a while is published by whoever finds it; its event may come twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.keys import OUTBOX, outbox_key
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event
from histgen_lib.files import canonical_json
from histgen_lib.storage import JSON, ObjectStore


def announce(
    store: ObjectStore, publisher: Publisher, event: Event, write: Callable[[], object] = lambda: None
) -> None:
    """Write an object and publish its event. Raises what store and publisher raise; then do it again."""
    note = outbox_key(event.name)
    store.put(note, canonical_json(event.to_json()), if_absent=False, content_type=JSON)
    write()
    publisher.publish(event.type, event.key, event)
    store.delete(note)


def announce_left(store: ObjectStore, publisher: Publisher, *, before: float) -> int:
    """Publish the events whose notes were written before a time (seconds since 1970); return how many.

    Raises what store and publisher raise.
    """
    count = 0
    for info in store.list(OUTBOX):
        if info.modified_at < before and (data := store.find(info.key)) is not None:
            try:
                event = Event.from_json(json.loads(data))
            except (InvalidInputError, ValueError, RecursionError):  # damaged; rebuilding finds its object
                store.delete(info.key)
                continue
            publisher.publish(event.type, event.key, event)
            store.delete(info.key)
            count += 1
    return count

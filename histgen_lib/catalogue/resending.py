"""Announcing slides again that neither ended nor will, since the broker has lost their events."""

from __future__ import annotations

from collections.abc import Iterator

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Audit, this_account
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import SlideState
from histgen_lib.storage import ObjectStore


def unfinished(store: ObjectStore) -> list[SlideState]:
    """List the slides that were announced and have neither a draft nor a dead letter. Raises as the store.

    Those whose event nothing in the store tells any more are left out: only their sender has it.
    """
    return [slide for slide in Overview(store).slides() if slide.event and not slide.ended]


def resend(store: ObjectStore, publisher: Publisher) -> Iterator[SlideState]:
    """Publish the event of each unfinished slide again, as it was: workers recognise one that they still get.

    Yields each slide when its event is durable. Raises what store and publisher raise; then call it again.
    """
    audit = Audit(store)
    for slide in unfinished(store):
        assert slide.event is not None
        deed = {"event_id": slide.event.id, "slide_id": slide.slide_id}
        audit.append("announced-again", this_account(), deed)
        publisher.publish(slide.event.type, slide.event.key, slide.event)
        yield slide

"""Which events can follow from one that was announced: their ids follow from its own, and are looked up."""

from __future__ import annotations

from collections.abc import Iterator

from histgen_lib.events import BagReady, Event
from histgen_lib.storage import ObjectStore
from histgen_lib.worker import DeadLetter, read_dead_letter

MOST_REPLAYS = 3
"""Replays that are followed; whoever replays a slide more often asks `histgen status` for it."""

_ANY_BAG = BagReady("", "", "", "", "", "", 0, 0)


def letter_of(store: ObjectStore, event: Event) -> DeadLetter | None:
    """Find the dead letter an announced slide ended in, whether in the tiler, the reporter or a replay."""
    found = (read_dead_letter(store, one.id) for one in _latest_first(event, MOST_REPLAYS))
    return next((letter for letter in found if letter), None)


def _latest_first(scan: Event, replays: int) -> Iterator[Event]:
    """Yield the events that workers may give up; replayed, each begins with the slide's scan again."""
    bag = scan.then(_ANY_BAG, source="", now=scan.time)
    if replays:
        yield from _latest_first(bag.again(now=scan.time), replays - 1)
        yield from _latest_first(scan.again(now=scan.time), replays - 1)
    yield bag
    yield scan

"""Which records wait to be tried again, for how long, and whether other records may pass them meanwhile.

A record with a trouble of its own – its bucket or share is unavailable, its job crashes – is set aside, and
others pass. An outage that concerns all records – of the model server, of the store – is waited for with a
record in hand: when a second record fails for the same reason and no job got through in between, further
tries would only burn the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from histgen_lib.bus import Delivery
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.events import Event
from histgen_lib.runtime.board import Aside, Board
from histgen_lib.runtime.pulse import Backoff

OWN = "slide-away"
"""The one outage that concerns only the slides of one place."""
TURN = 8
"""So many tries a record has in hand while others fail for the same reason; then another record has its
turn."""
LATE_S, LOST_S = 5.0, 3600.0
"""How overdue a record that was set aside may be: while there is nothing else to do, and while others have
their turn."""
SHARE, MOST_S = 3.0, 300.0
"""A place that is slow to fail is tried the more rarely: after so many times as long, up to a limit."""
LAST = 1.25
"""A slide that was refused is tried as the last of its place: it may be the only one that cannot be had."""


@dataclass
class _Tries:
    """What is remembered of a record between its tries."""

    delays: Iterator[float]
    began_at: float
    count: int = 0


@dataclass
class _Away:
    """A place whose slides cannot be had now; it is tried again at `until`.

    `count`: how often it has failed since a slide was last had from it.
    """

    delays: Iterator[float]
    until: float = 0.0
    count: int = 0

    def wait_s(self, took_s: float) -> float:
        """Count a failure and return how long to leave the place alone. The first may be the slide's own."""
        self.count += 1
        return max(next(self.delays), min(MOST_S, SHARE * took_s) if self.count > 1 else 0.0)


@dataclass
class Retries:
    """The retries of one worker, used only by its poll loop. The board shows the records that are aside."""

    backoff: Backoff
    board: Board
    _tries: dict[str, _Tries] = field(default_factory=dict)
    _failed: dict[str, set[str]] = field(default_factory=dict)
    _away: dict[str, _Away] = field(default_factory=dict)

    def delay_s(self, delivery: Delivery, event: Event, reason: HistgenError, took_s: float) -> float:
        """Return how long a record that failed after `took_s` is to wait; more after each failure.

        If its place is unavailable, that place's own delays count too, and how long it takes to fail.
        """
        now = self.board.clock()
        tries = self._tries_of(delivery, now)
        tries.count += 1
        delay_s = next(tries.delays)
        if reason.code == OWN:
            self._away = {name: away for name, away in self._away.items() if away.until > now - LOST_S}
            away = self._away.setdefault(_place(event), _Away(self.backoff.delays()))
            wait_s = away.wait_s(took_s)
            away.until = now + wait_s
            delay_s = max(delay_s, LAST * wait_s)
        elif isinstance(reason, TransientError):
            self._failed.setdefault(reason.code, set()).add(delivery.position)
        return delay_s

    def _tries_of(self, delivery: Delivery, now: float) -> _Tries:
        return self._tries.setdefault(delivery.position, _Tries(self.backoff.delays(), now))

    def concerns_all(self, reason: HistgenError) -> bool:
        """Return whether several records have failed for this reason since a job got through."""
        return len(self._failed.get(reason.code, ())) > 1

    def had_its_turn(self, delivery: Delivery) -> bool:
        """Return whether another record may be tried now: what fails for two may still not concern all."""
        return self._tries[delivery.position].count % TURN == 0

    def away_s(self, event: Event) -> float:
        """Return how long to leave the slide's place alone; 0.0 if it may be tried."""
        away = self._away.get(_place(event))
        return max(0.0, away.until - self.board.clock()) if away else 0.0

    def set_aside(self, delivery: Delivery, event: Event, code: str, delay_s: float) -> None:
        """Note a record that others pass for `delay_s`."""
        now = self.board.clock()
        tries = self._tries_of(delivery, now)
        shown = Aside(
            event.key, event.name, event.scanned_at, code, tries.count, tries.began_at, now + delay_s
        )
        self.board.aside = {**self.board.aside, delivery.position: shown}

    def delivered(self, position: str | None) -> None:
        """Note which record the broker delivered, None for none. Overdue ones are another member's by now."""
        late = self.board.clock() - (LATE_S if position is None else LOST_S)
        aside = {place: record for place, record in self.board.aside.items() if place != position}
        for place in [place for place, record in aside.items() if record.due_at < late]:
            del aside[place], self._tries[place]
        self.board.aside = aside

    def left(self, position: str) -> None:
        """Note that a record is no longer in hand, and forget its tries unless it was set aside."""
        if position not in self.board.aside:
            self._tries.pop(position, None)

    def got_through(self, event: Event) -> None:
        """Note a job that was done: what all records need is there, and so is the place of its slide."""
        self._failed.clear()
        self._away.pop(_place(event), None)


def _place(event: Event) -> str:
    """Return what a slide shares with its neighbours: the bucket, or the folder."""
    uri: str = getattr(event.data, "uri", "")
    if uri.startswith("s3://"):
        return "/".join(uri.split("/", 3)[:3])
    return uri.rpartition("/")[0]

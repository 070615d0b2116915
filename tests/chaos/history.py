"""What happened according to broker, store and logs, checked against the promises.

The promises: an acknowledged event has exactly one outcome, announced objects exist, offsets never pass
unfinished work, events of a slide keep their order, and no log reports what broker and store do not confirm.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from broker_log import Offsets, Record, broker_log
from kafka.errors import KafkaError

from histgen_lib.bus import BusSettings
from histgen_lib.catalogue.keys import case_slide_key, scan_key
from histgen_lib.errors import HistgenError
from histgen_lib.events import BAG_READY, DEAD_LETTER, REPORT_DRAFTED, SLIDE_SCANNED, Event, following_id
from histgen_lib.storage import ObjectStore

TAKES = {SLIDE_SCANNED: "histgen-tiler", BAG_READY: "histgen-reporter"}
"""The consumer group of each topic."""
FOLLOWS = {SLIDE_SCANNED: BAG_READY, BAG_READY: REPORT_DRAFTED}
LETTERS, REPLAYED = "dead-letter/", "dead-letter-replayed/"
FINISHED, ANNOUNCED = "The record is finished.", "Announced."
WATCH_S = 3.0


@dataclass(frozen=True)
class History:
    """Everything known. `commits`: groups' offsets by topic; `letters`, `replayed`: keys by event name.

    `places`: positions of records that became dead letters because they are not valid events.
    """

    records: Mapping[str, Sequence[Record]]
    commits: Mapping[str, Offsets]
    keys: frozenset[str]
    letters: Mapping[str, str]
    replayed: Mapping[str, str]
    places: frozenset[str] = frozenset()
    log_lines: Sequence[Mapping[str, Any]] = ()

    def events(self, topic: str) -> list[Event]:
        """List the events of a topic, in order within each partition."""
        return [record.event for record in self.records[topic] if record.event]

    @cached_property
    def names(self) -> Mapping[str, frozenset[str]]:
        """Return the names of the events of each topic."""
        return {topic: frozenset(event.name for event in self.events(topic)) for topic in self.records}


def read_history(bus: BusSettings, store: ObjectStore, logs: Iterable[Path] = ()) -> History:
    """Read the history from broker, store and logs."""
    with broker_log(bus) as broker:
        commits = {topic: broker.committed(topic, group) for topic, group in TAKES.items()}
        records = {topic: broker.records(topic) for topic in (*TAKES, REPORT_DRAFTED, DEAD_LETTER)}
    keys = frozenset(info.key for info in store.list())
    letters, replayed = (dict(_given_up(store, keys, prefix)) for prefix in (LETTERS, REPLAYED))
    log_lines = [line for log in logs for line in _lines(log)]
    places = frozenset(_places(store, keys))
    return History(records, commits, keys, letters, replayed, places, log_lines)


def violations(history: History, acknowledged: Iterable[Event] = ()) -> list[str]:
    """List the broken promises. `acknowledged`: events that the broker acknowledged."""
    return [
        *_lost(history, acknowledged),
        *_outcomes(history),
        *_from_nothing(history),
        *_passed(history),
        *_out_of_order(history),
        *_untrue_logs(history),
    ]


def _lost(history: History, acknowledged: Iterable[Event]) -> Iterator[str]:
    for event in acknowledged:
        if event.name not in history.names[event.type]:
            yield f"lost: {event.type} {event.name} of {event.key} was acknowledged but is not in the broker"


def _outcomes(history: History) -> Iterator[str]:
    """Report events without exactly one outcome: a following event, a dead letter or a replayed letter."""
    announced = {event.data.key for event in history.events(DEAD_LETTER)}
    for topic in TAKES:
        for event in _distinct(history, topic):
            given_up = event.name in history.letters
            ends = [given_up, event.name in history.replayed, _made(history, event)]
            if sum(ends) != 1:
                yield f"{sum(ends)} outcomes: {topic} {event.name} of {event.key}"
            if given_up and history.letters[event.name] not in announced:
                yield f"untold: the dead letter of {event.name} was not announced"


def _distinct(history: History, topic: str) -> Collection[Event]:
    """Return the distinct events of a topic, without records given up as invalid."""
    taken = [one for one in history.records[topic] if str(one) not in history.places]
    return {one.event.name: one.event for one in taken if one.event}.values()


def _made(history: History, event: Event) -> bool:
    """Return whether an event led to the next event, or to a slide's place in its case."""
    following = FOLLOWS.get(event.type)
    if following is None:  # it is on the wrong topic
        return False
    if following_id(event.name, following) in history.names[following]:
        return True
    case = event.data.case_id if event.type == BAG_READY else None
    return case is not None and case_slide_key(case, event.key) in history.keys


def _from_nothing(history: History) -> Iterator[str]:
    """Report announcements without a cause, or of objects that are not in the store."""
    for topic, following in FOLLOWS.items():
        due = {following_id(id, following) for id in history.names[topic]}
        for event in history.events(following):
            if event.name not in due and not _of_case(event):
                yield f"from nothing: {following} {event.name} of {event.key}"
            if _object(event) not in history.keys:
                yield f"not there: {_object(event)}, announced by {event.name}"


def _of_case(event: Event) -> bool:
    return event.type == REPORT_DRAFTED and event.data.case_id is not None


def _object(event: Event) -> str:
    data = event.data
    return scan_key(data.slide_id, data.bag_digest) if event.type == BAG_READY else data.draft_key


def _passed(history: History) -> Iterator[str]:
    """Report unfinished records below a committed offset."""
    for topic, group in TAKES.items():
        for record in history.records[topic]:
            if record.offset < history.commits[topic].get(record.part, 0) and not _ended(history, record):
                yield f"passed: {group} committed past {record}, which is not finished"


def _ended(history: History, record: Record) -> bool:
    event = record.event
    if event is None or str(record) in history.places:
        return str(record) in history.places
    return event.name in {**history.letters, **history.replayed} or _made(history, event)


def _out_of_order(history: History) -> Iterator[str]:
    """Report slides whose following events first appeared in a different order than their causes."""
    for topic, following in FOLLOWS.items():
        order = defaultdict[str, dict[str, int]](dict)
        for at, event in enumerate(history.events(following)):
            order[event.key].setdefault(event.name, at)
        causes = defaultdict[str, dict[str, None]](dict)
        for event in history.events(topic):
            causes[event.key][following_id(event.name, following)] = None
        for key, due in causes.items():
            came = [order[key][id] for id in due if id in order[key]]
            if came != sorted(came):
                yield f"out of order: {following} of {key}"


def _untrue_logs(history: History) -> Iterator[str]:
    """Report log lines that neither broker nor store confirms."""
    taken = history.names[SLIDE_SCANNED] | history.names[BAG_READY]
    ended = {
        event.name
        for topic in TAKES
        for record in history.records[topic]
        if (event := record.event) and _ended(history, record)
    }
    for line in history.log_lines:
        event_id, message = line.get("event_id"), line.get("event")
        if message == ANNOUNCED and event_id not in history.names[SLIDE_SCANNED]:
            yield f"untrue: the gateway announced {event_id}, but the broker does not have it"
        if message == FINISHED and event_id in taken and event_id not in ended:
            yield f"untrue: a worker finished {event_id}, but nothing came of it"


def _given_up(store: ObjectStore, keys: Iterable[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key in keys:
        if key.startswith(prefix):
            letter = json.loads(store.get(key))
            yield Event.from_json(letter["event"]).name if "event" in letter else letter["event_id"], key


def _places(store: ObjectStore, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if key.startswith((LETTERS, REPLAYED)) and "position" in (letter := json.loads(store.get(key))):
            yield letter["position"]


def _lines(log: Path) -> Iterator[Mapping[str, Any]]:
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):  # written by a library, or by a process killed in mid-line
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


@dataclass
class CommitWatch:
    """Checks offsets repeatedly while a stream runs, reading commits before results."""

    bus: BusSettings
    store: ObjectStore
    looks: int = 0
    found: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Note each record that is passed and still unfinished."""
        history = read_history(self.bus, self.store)
        self.looks += 1
        self.found += [wrong for wrong in _passed(history) if wrong not in self.found]

    def run(self) -> None:
        """Look until asked to stop; skip a round while a server is down."""
        while True:
            with suppress(HistgenError, KafkaError, sqlite3.Error, OSError, ValueError):
                self.look()
            if self._over.wait(WATCH_S):
                return

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look in a separate thread for the duration of the block, at least once."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(60)
        assert not thread.is_alive(), "the thread that checks offsets does not end"
        if not self.looks:
            self.look()  # the run was short, or every look failed and this one raises the reason

"""Members of a consumer group: in threads, which can be held up, and in processes, which can be killed."""

from __future__ import annotations

import multiprocessing
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from waiting import until

from histgen_lib.bus import (
    Backlog,
    BusSettings,
    Delivery,
    Publisher,
    Subscription,
    open_backlog,
    open_publisher,
    open_subscriptions,
)
from histgen_lib.bus._several import SeveralSubscription
from histgen_lib.errors import TransientError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.testing import MemoryBus

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class InMemory(BusSettings):
    """Settings of a broker in this process."""

    bus: MemoryBus = field(default_factory=MemoryBus)


@dataclass(frozen=True)
class Beside(BusSettings):
    """Settings with which every subscription has another topic beside its own, on which nothing comes."""


@dataclass(frozen=True)
class BesideInMemory(InMemory, Beside):
    """The same, of a broker in this process."""


def publisher_of(settings: BusSettings) -> Publisher:
    """Open a publisher to any broker."""
    if isinstance(settings, InMemory):
        settings.bus.partitions = settings.partitions
        return settings.bus
    return open_publisher(settings)


def subscribe(settings: BusSettings, topic: str, group: str) -> Subscription:
    """Open a subscription to any broker."""
    if isinstance(settings, Beside):
        return subscribe_all(settings, {topic: group, f"{topic}-beside": f"{group}-beside"})
    return subscribe_all(settings, {topic: group})


def subscribe_all(settings: BusSettings, groups: Mapping[str, str]) -> Subscription:
    """Open one subscription to several topics of any broker."""
    if not isinstance(settings, InMemory):
        return open_subscriptions(settings, groups)
    found = {
        topic: settings.bus.subscribe(topic, group, session_s=settings.session_s)
        for topic, group in groups.items()
    }
    return SeveralSubscription(found) if len(found) > 1 else found.popitem()[1]


def watching(settings: BusSettings) -> Backlog:
    """Open what tells what waits, on any broker."""
    return settings.bus.backlog() if isinstance(settings, InMemory) else open_backlog(settings)


def scanned(slide: str, number: int = 0) -> Event:
    """Return an event; `number` distinguishes the events of a slide."""
    data = SlideScanned(slide, f"file:///scans/{slide}.svs", "ab" * 32, number)
    return Event.first(data, source="histgen/test", now=NOW, identity=f"{slide}|{number}")


def number_of(delivery: Delivery) -> tuple[str, int]:
    """Return the slide and number of a delivered event."""
    assert delivery.event is not None
    assert isinstance(delivery.event.data, SlideScanned)
    return delivery.event.data.slide_id, delivery.event.data.size_bytes


def new_name() -> str:
    """Return a name for a topic or group that no other test uses."""
    return f"test-{secrets.token_hex(6)}"


def publish(publisher: Publisher, topic: str, slides: int, each: int = 1) -> list[tuple[str, int]]:
    """Publish events of several slides; return what `number_of` returns for them."""
    names = [(f"S{slide}", number) for number in range(each) for slide in range(slides)]
    for slide, number in names:
        publisher.publish(topic, slide, scanned(slide, number))
    return names


class Member:
    """A member in its own thread. While `holding` is set, it keeps its record in flight."""

    def __init__(self, settings: BusSettings, topic: str, group: str, *, holding: bool = False) -> None:
        self.settings, self.topic, self.group = settings, topic, group
        self.took: list[tuple[str, int]] = []
        self.finished: list[tuple[str, int]] = []
        self.refused: list[tuple[str, int]] = []
        self.kept: list[bool] = []
        self.outages = 0
        self.holding, self.stalled, self._ending = threading.Event(), threading.Event(), threading.Event()
        if holding:
            self.holding.set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Member:
        """Start to take records."""
        self._thread.start()
        return self

    def leave(self) -> None:
        """Leave the group without finishing the record in flight."""
        self._ending.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        subscription = subscribe(self.settings, self.topic, self.group)
        try:
            while not self._ending.is_set():
                delivery = self._patiently(lambda: subscription.next(0.1))
                if delivery is not None:
                    self._work(subscription, delivery)
        finally:
            subscription.close()

    def _work(self, subscription, delivery) -> None:
        self.took.append(number_of(delivery))
        while self.holding.is_set() and not self._ending.is_set():
            if not self.stalled.is_set():
                self.kept.append(self._patiently(subscription.keep))
            time.sleep(0.02)
        if not self.holding.is_set():
            done = self._patiently(lambda: subscription.done(delivery))
            (self.finished if done else self.refused).append(number_of(delivery))

    def _patiently(self, call):
        while not self._ending.is_set():
            try:
                return call()
            except TransientError:
                self.outages += 1
                time.sleep(0.05)
        return None


@contextmanager
def members(*all_of_them: Member) -> Iterator[None]:
    """Start members; they leave at the end of the block."""
    for member in all_of_them:
        member.start()
    try:
        yield
    finally:
        for member in all_of_them:
            member._ending.set()
        for member in all_of_them:
            member.leave()


def _serve(settings: BusSettings, topic: str, group: str, holding: bool, news: Connection) -> None:
    member = Member(settings, topic, group, holding=holding).start()
    sent = 0
    while True:
        until(lambda sent=sent: len(member.took) > sent, 60, "a record")
        news.send(member.took[sent])
        sent += 1


@contextmanager
def member_process(
    settings: BusSettings, topic: str, group: str, *, holding: bool
) -> Iterator[tuple[BaseProcess, Connection]]:
    """Run a member in a process; it sends each record that it takes through the connection."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_serve, args=(settings, topic, group, holding, theirs), daemon=True)
    process.start()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


@contextmanager
def publishing(settings: BusSettings) -> Iterator[Publisher]:
    """Open a publisher to any broker for the block."""
    publisher = publisher_of(settings)
    try:
        yield publisher
    finally:
        publisher.close()

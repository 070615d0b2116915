"""A worker's surroundings in memory, which fail on demand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

from histgen_lib.bus import Delivery, Reason
from histgen_lib.catalogue.keys import letter_key
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import Event, ReportDrafted, SlideScanned
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import Backoff, Pulse
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.address import Address
from histgen_lib.storage import ObjectInfo
from histgen_lib.testing import MemoryBus, MemoryStore
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.handler import Outcome, WorkerSpec
from histgen_lib.worker.retries import Retries
from histgen_lib.worker.task import Task, Worker

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BUS_AWAY = TransientError("bus-unavailable", "The broker is away.")
STORE_AWAY = TransientError("storage-unavailable", "The store is away.")


def scanned(slide_id: str = "S1") -> Event:
    data = SlideScanned(slide_id, f"file:///{slide_id}.svs", "c" * 64, 10)
    return Event.first(data, source="/histgen/test", now=NOW, identity=slide_id)


def drafted(event: Event) -> Event:
    return event.then(ReportDrafted(event.key, "d" * 64, "draft", False), source="/histgen/test", now=NOW)


def delivery(event: Event | None, offset: int = 0, raw: bytes = b"{}") -> Delivery:
    unreadable = None if event else InvalidInputError("event-unreadable", "It lacks a part.")
    return Delivery("slide.scanned", 0, offset, raw, event, unreadable)


EVENT = scanned()
LETTER = letter_key(EVENT.id)
FIRST = f"attempts/w/{EVENT.id}/1"
BAD = InvalidInputError("slide-damaged", "It is damaged.", hint="Copy it again.")


class Failing:
    """Counts calls by name, and lets the next ones fail as `fail` says."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.away: dict[str, deque[Exception]] = {}

    def fail(self, name: str, *errors: Exception) -> None:
        self.away[name] = deque(errors)

    def called(self, name: str) -> None:
        self.calls[name] += 1
        if self.away.get(name):
            raise self.away[name].popleft()


class FailingStore(Failing, MemoryStore):
    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        self.called("put")
        return super().put(key, data, if_absent=if_absent, content_type=content_type)

    def get(self, key: str) -> bytes:
        self.called("get")
        return super().get(key)

    def find(self, key: str) -> bytes | None:
        self.called("get")
        return super().find(key)

    def head(self, key: str) -> ObjectInfo | None:
        self.called("head")
        return super().head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self.called("list")
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self.called("delete")
        super().delete(key)

    def under(self, prefix: str) -> Sequence[str]:
        return [key for key in sorted(self.objects) if key.startswith(prefix)]


class FailingBus(Failing, MemoryBus):
    """Publisher, and a subscription that answers what a test sets.

    `ours`: what `keep`, `done` and `reject` answer. `room`: how many records may be set aside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rejected: list[Reason] = []
        self.ended: list[str] = []
        self.deferred: list[tuple[str, float]] = []
        self.ours, self.room = True, 0
        self.waiting: TransientError | None = None

    def publish(self, topic: str, key: str, event: Event) -> None:
        self.called("publish")
        assert (topic, key) == (event.type, event.key)
        super().publish(topic, key, event)

    def keep(self) -> bool:
        self.called("keep")
        return self.ours

    def done(self, delivery: Delivery) -> bool:
        self.called("done")
        self.ended.append("done")
        return self.ours

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        self.called("reject")
        self.rejected.append(reason)
        self.ended.append("reject")
        return self.ours

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        self.called("defer")
        if len(self.deferred) >= self.room:
            return False
        self.deferred.append((delivery.position, wait_s))
        return True

    def release(self, delivery: Delivery) -> None:
        self.called("release")
        self.ended.append("release")

    def lag(self) -> int:
        return 0

    def trouble(self) -> TransientError | None:
        return self.waiting


Step = Exception | Callable[[], object] | None
"""What a call does before its answer: fail, call something, or nothing."""


class Limits(TypedDict, total=False):
    """What a test may change of a WorkerSpec."""

    deadline_s: float
    start_s: float
    grace_s: float
    max_attempts: int


@dataclass
class FakeRunner:
    """In place of the child: `results` are what `handle` does in turn; what it wrote, `find` finds."""

    results: list[Step] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    on_find: list[Step] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    found: int = 0
    abandoned: int = 0

    def find(self, event: Event) -> Outcome | None:
        self.found += 1
        if self.on_find:
            _do(self.on_find.pop(0))
        return Outcome([drafted(event)]) if event.key in self.written else None

    def handle(self, event: Event, attempt: int) -> Outcome:
        self.handled.append(attempt)
        if self.results:
            _do(self.results.pop(0))
        self.written.add(event.key)
        return Outcome([drafted(event)], {"stage:read": 1.0})

    def abandon(self) -> None:
        self.abandoned += 1

    def tend(self) -> None:
        pass


def _do(step: Step) -> None:
    if isinstance(step, Exception):
        raise step
    if step:
        step()


@dataclass
class World:
    """What workers share, in memory; each call of `worker` makes another one."""

    store: FailingStore = field(default_factory=FailingStore)
    bus: FailingBus = field(default_factory=FailingBus)
    runner: FakeRunner = field(default_factory=FakeRunner)
    stop: Stop = field(default_factory=Stop)

    def worker(self, **limits: Unpack[Limits]) -> Worker:
        spec = WorkerSpec(
            "w",
            {"slide.scanned": "g"},
            FakeRunner,
            Address("127.0.0.1", 0, Path("/token")),
            backoff=Backoff(0, 0),
            drafts=True,
            **{"max_attempts": 3, **limits},
        )
        board = Board(spec.name, now=lambda: NOW)
        pulse = Pulse(board, self.stop, grace_s=spec.grace_s, backoff=spec.backoff)
        pulse.subscription = self.bus
        pulse.take()
        attempts, retries = Attempts(self.store, spec.name), Retries(spec.backoff, board)
        return Worker(spec, self.bus, self.bus, self.store, attempts, self.runner, pulse, board, retries)


def work(worker: Worker, event: Event = EVENT) -> None:
    """Have a worker take a record to its end."""
    Task(worker, delivery(event), event).run()
    worker.attempts.sweep()

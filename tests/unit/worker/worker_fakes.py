"""A worker's surroundings in memory, which fail when told to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histgen_lib.bus import Delivery, Reason
from histgen_lib.catalogue.keys import letter_key
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import Event, ReportDrafted, SlideScanned
from histgen_lib.runtime.backoff import Backoff
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import Pulse
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import ObjectInfo
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.job import Job
from histgen_lib.worker.kit import Kit
from histgen_lib.worker.patience import Patience
from histgen_lib.worker.spec import WorkerSpec

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
    """Counts calls by name, and has the next ones fail as told."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.away: dict[str, deque[Exception]] = {}

    def fail(self, name: str, *errors: Exception) -> None:
        self.away[name] = deque(errors)

    def called(self, name: str) -> None:
        self.calls[name] += 1
        if self.away.get(name):
            raise self.away[name].popleft()


class MemoryStore(Failing):
    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, *, if_absent: bool = True, content_type: str = "") -> bool:
        self.called("put")
        if if_absent and key in self.objects:
            return False
        self.objects[key] = data
        return True

    def get(self, key: str) -> bytes:
        data = self.find(key)
        if data is None:
            raise InvalidInputError("object-missing", "There is no such object.")
        return data

    def find(self, key: str) -> bytes | None:
        self.called("get")
        return self.objects.get(key)

    def head(self, key: str) -> ObjectInfo | None:
        self.called("head")
        return ObjectInfo(key, 1, "", 0.0) if key in self.objects else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self.called("list")
        return iter([ObjectInfo(key, 1, "", 0.0) for key in sorted(self.objects) if key.startswith(prefix)])

    def delete(self, key: str) -> None:
        self.called("delete")
        self.objects.pop(key, None)

    def under(self, prefix: str) -> Sequence[str]:
        return [key for key in sorted(self.objects) if key.startswith(prefix)]


class MemoryBus(Failing):
    """Publisher and subscription in one; `ours` is what `keep`, `done` and `reject` answer.

    `room`: how many records may be set aside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Event] = []
        self.rejected: list[Reason] = []
        self.ended: list[str] = []
        self.deferred: list[tuple[str, float]] = []
        self.ours, self.room = True, 0
        self.waiting: TransientError | None = None

    def publish(self, topic: str, key: str, event: Event) -> None:
        self.called("publish")
        assert (topic, key) == (event.type, event.key)
        self.published.append(event)

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


@dataclass
class FakeRunner:
    """In place of the child: `results` are what `handle` does in turn; what it wrote, `find` finds."""

    results: list[Any] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    on_find: list[Any] = field(default_factory=list)
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


def _do(step: Exception | Callable[[], None] | None) -> None:
    if isinstance(step, Exception):
        raise step
    if step:
        step()


@dataclass
class World:
    """A kit of fakes; `kit(name)` makes another worker in the same world."""

    store: MemoryStore = field(default_factory=MemoryStore)
    bus: MemoryBus = field(default_factory=MemoryBus)
    runner: FakeRunner = field(default_factory=FakeRunner)
    stop: Stop = field(default_factory=Stop)

    def kit(self, **values: Any) -> Kit:
        spec = WorkerSpec(
            "w",
            "slide.scanned",
            "g",
            FakeRunner,
            Path("/token"),
            **{"backoff": Backoff(0, 0), "max_attempts": 3} | values,
        )
        board = Board(spec.name, now=lambda: NOW)
        pulse = Pulse(spec, board, self.stop)
        pulse.subscription = self.bus
        pulse.take()
        attempts, patience = Attempts(self.store, spec.name), Patience(spec.backoff, board)
        return Kit(spec, self.bus, self.bus, self.store, attempts, self.runner, pulse, board, patience)


def work(kit: Kit, event: Event = EVENT) -> None:
    """Have a worker take a record to its end."""
    Job(kit, delivery(event), event).run()
    kit.attempts.sweep()

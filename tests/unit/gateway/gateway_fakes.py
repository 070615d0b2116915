"""A broker, an object store and an intake in memory; broker and store can fail, or kill at a key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from histgen_lib.access.places import FilePlace, ObjectPlace, Roots
from histgen_lib.bus import Delivery
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import DEAD_LETTER, SLIDE_SCANNED, Event
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.runtime.pulse import GRACE_S, Backoff
from histgen_lib.runtime.stopping import Stop
from histgen_lib.testing import MemoryBus, MemoryStore
from services.gateway.contents import Contents
from services.gateway.intake import Intake
from services.gateway.submission import Case, Receipt, Submission

AT_ONCE = Backoff(first_s=0.001, most_s=0.01)


class Killed(BaseException):
    """The process ends here."""


class Bus(MemoryBus):
    """A broker to which the gateway publishes; `away` makes it fail."""

    def publish(self, topic: str, key: str, event: Event) -> None:
        assert (topic, key) == (event.type, event.key)
        super().publish(topic, key, event)

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        raise AssertionError("the gateway publishes events only")

    @property
    def away(self) -> bool:
        return self.error is not None

    @away.setter
    def away(self, away: bool) -> None:
        self.error = TransientError("bus-unavailable", "The broker is away.") if away else None

    @property
    def scanned(self) -> list[Event]:
        return [event for event in self.published if event.type == SLIDE_SCANNED]

    @property
    def letters(self) -> list[Event]:
        return [event for event in self.published if event.type == DEAD_LETTER]


class Objects(MemoryStore):
    """A store; `away` makes it fail.

    `dies_at`: part of a key whose writing kills; `on_read`: called for each chunk, of which `reads` counts.
    """

    def __init__(self, *, ours: bool = True) -> None:
        super().__init__(ours=ours)
        self.dies_at = ""
        self.on_read: Callable[[], object] = lambda: None
        self.reads = 0

    @property
    def kept(self) -> dict[str, bytes]:
        return self.objects

    @property
    def away(self) -> bool:
        return self.error is not None

    @away.setter
    def away(self, away: bool) -> None:
        self.error = TransientError("storage-unavailable", "The store is away.") if away else None

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        if self.dies_at and self.dies_at in key:
            raise Killed
        return super().put(key, data, if_absent=if_absent, content_type=content_type)

    def chunks(self, key: str, size: int = 4) -> Iterator[bytes]:
        data = self.get(key)
        self.reads += 1
        for start in range(0, len(data), size):
            self.on_read()
            yield data[start : start + size]


class GatewayLab:
    """A gateway's intake over a folder and buckets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus, self.store = Bus(), Objects()
        self.buckets: dict[str, Objects] = {}
        self.seconds = 0
        self.intake = self.restarted()

    def restarted(self, roots: Roots | None = None) -> Intake:
        """Make the intake of a new process, which knows only what is stored."""
        roots = roots or Roots((self.folder,), ("lab/", "shared/scans/"))
        contents = Contents(roots, lambda name: self.buckets.setdefault(name, Objects(ours=False)))
        self.intake = Intake(self.bus, self.store, contents, now=self._now)
        return self.intake

    def file(self, name: str, content: bytes | str = b"pixels") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def object(self, bucket: str, key: str, content: bytes = b"pixels") -> None:
        self.buckets.setdefault(bucket, Objects(ours=False)).kept[key] = content

    def submit(
        self,
        place: Path | ObjectPlace,
        *,
        slide_id: str | None = None,
        mpp: float | None = None,
        case: Case | None = None,
        mark: str = "",
    ) -> Receipt:
        where = FilePlace(place) if isinstance(place, Path) else place
        return self.intake.submit(Submission(where, "http", slide_id, mpp, case, mark))

    def _now(self) -> datetime:
        self.seconds += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


def keys_of(lab: GatewayLab) -> list[str]:
    """List the announced slides."""
    return sorted(event.key for event in lab.bus.scanned)


def context(stop: Stop, backoff: Backoff = AT_ONCE, grace_s: float = GRACE_S) -> LoopContext:
    """Make the context of a loop."""
    return LoopContext(Board("gateway"), stop, grace_s, backoff)


@contextmanager
def running(loop: Loop, stop: Stop) -> Iterator[Loop]:
    """Run a loop in its thread; it must end after the stop."""
    loop.thread.start()
    try:
        yield loop
    finally:
        stop.request()
        loop.thread.join(20)
        assert not loop.thread.is_alive()


class Topic:
    """A subscription on a list of raw records, with at most one in flight; `away` makes the broker fail."""

    def __init__(self, records: list[bytes]) -> None:
        self.records = records
        self.why = InvalidInputError("event-type", "It is no event of ours.")
        self.waiting: TransientError | None = None
        self.committed = 0
        self.held = False
        self.kept = 0
        self.released = 0
        self.away = False
        self.closed = threading.Event()

    def next(self, timeout_s: float) -> Delivery | None:
        assert not self.held, "a second record while one is in flight"
        self._there()
        if self.committed >= len(self.records):
            threading.Event().wait(0.005)
            return None
        self.held = True
        raw = self.records[self.committed]
        return Delivery("s3.notifications", 0, self.committed, raw, unreadable=self.why)

    def keep(self) -> bool:
        self._there()
        self.kept += 1
        return True

    def done(self, delivery: Delivery) -> bool:
        self._there()
        assert delivery.offset == self.committed
        self.committed, self.held = self.committed + 1, False
        return True

    def reject(self, delivery: Delivery, reason: object) -> bool:
        raise AssertionError("the gateway publishes its letters itself")

    def release(self, delivery: Delivery) -> None:
        self.released += 1
        self.held = False

    def lag(self) -> int:
        self._there()
        return len(self.records) - self.committed

    def trouble(self) -> TransientError | None:
        return self.waiting

    def close(self) -> None:
        self.closed.set()

    def _there(self) -> None:
        if self.away:
            raise TransientError("bus-unavailable", "The broker is away.")

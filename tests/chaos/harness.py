"""A stream of real processes that a test may kill, and what it left behind.

Tests publish through the real Publisher, and observe services by /status and /metrics and results in the
object store; nothing here reaches into a service. `restart` starts a killed service again, as a supervisor
would.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from broker_log import lag
from history import LETTERS, TAKES, CommitWatch, History, read_history
from processes import Service
from waiting import until

from histgen_lib.bus import BusSettings, Publisher, open_publisher
from histgen_lib.errors import TransientError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.slides.source import content_id
from histgen_lib.storage import StorageSettings, open_store

T = TypeVar("T")

SESSION_S, MAX_POLL_S = 2.0, 3.0
"""After so long without a heartbeat, or a poll, a member loses its partitions; labs use 10 s or more."""
SOURCE = "/histgen/chaos"
LOOK_S = 0.03
"""The pause between two checks: the harness shares the machine's few cores with what it tests."""
DRAFT = re.compile(r"reports/(?P<slide>[^/]+)/(?P<digest>[^/]+)/draft\.json")


@dataclass(frozen=True)
class Place:
    """The servers that a stream uses."""

    bus: BusSettings
    storage: StorageSettings
    inference: str = "onnx"

    def environment(self) -> dict[str, str]:
        """Return the settings of a service that uses these servers."""
        return {
            "HISTGEN_BUS": self.bus.url,
            "HISTGEN_BUS_PARTITIONS": str(self.bus.partitions),
            "HISTGEN_BUS_SESSION_S": str(self.bus.session_s),
            "HISTGEN_KAFKA": json.dumps(dict(self.bus.kafka)),
            "HISTGEN_ROOTS": "/",
            "HISTGEN_STORE": self.storage.url,
            "HISTGEN_STORE_ENDPOINT": self.storage.endpoint or "",
            "HISTGEN_STORE_REGION": self.storage.region or "",
            "HISTGEN_INFERENCE": self.inference,
        }


def on_this_machine(folder: Path, *, partitions: int = 4, session_s: float = SESSION_S) -> Place:
    """Return the embedded bus and a folder store, as a lab with one workstation has."""
    folder.mkdir(parents=True, exist_ok=True)
    return Place(
        BusSettings(f"embedded:{folder / 'bus.db'}", partitions=partitions, session_s=session_s),
        StorageSettings(f"file:{folder / 'objects'}"),
    )


def scanned(path: Path, **more: Any) -> Event:
    """Return the event that announces a slide; equal files give equal events."""
    content = content_id(path)
    data = SlideScanned(path.stem, path.resolve().as_uri(), content, path.stat().st_size, **more)
    return Event.first(data, source=SOURCE, now=datetime.now(UTC), identity=f"{path.stem}|{content}")


@dataclass(frozen=True)
class Remains:
    """Everything a stream left: the SHA-256 of each object, dead letters, and the history of its events."""

    objects: Mapping[str, str]
    letters: Mapping[str, Mapping[str, Any]]
    pointers: Mapping[str, str]
    """By slide: the digest of its latest report."""
    undone: Mapping[str, int]
    """By consumer group: the number of events it has not committed."""
    history: History
    acknowledged: Sequence[Event]
    passed: Sequence[str]
    """Records that were passed unfinished while the stream was watched."""

    def results(self) -> dict[str, str]:
        """Return the objects that must be the same in every run."""
        kept = ("bags/", "reports/", "cases/", "case-reports/")
        return {key: sha for key, sha in self.objects.items() if key.startswith(kept)}


@dataclass
class Stream:
    """Services by label ("tiler", "tiler-2", …) that share a place; `settings`: HISTGEN_ variables for all.

    `logs`: a further folder of logs, of services that this stream did not start.
    """

    place: Place
    folder: Path
    model: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    logs: Path | None = None
    acknowledged: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = CommitWatch(self.place.bus, open_store(self.place.storage))
        self.run_dir = self.folder / "run"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.store = open_store(self.place.storage)

    def start(self, *labels: str, **settings: str) -> None:
        """Start services and wait until they listen."""
        for label in labels:
            self.services[label] = self._spawn(label, settings)
        for label in labels:
            self.services[label].await_listening()

    def restart(self, label: str) -> None:
        """Start a service again, as a supervisor does; return at once."""
        self.services[label] = self._spawn(label, {})

    def _spawn(self, label: str, settings: Mapping[str, str]) -> Service:
        self.starts[label] += 1
        log = self.folder / f"{label}.log"
        return Service(kind(label), self.run_dir, log, self.environment(**settings))

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the settings of a service of this stream, with some of its own."""
        return {
            "OMP_NUM_THREADS": "1",
            "HISTGEN_THREADS": "1",
            "HISTGEN_MODEL": str(self.model),
            "HISTGEN_RUN_DIR": str(self.run_dir),
            "HISTGEN_SCRATCH": str(self.folder / "scratch"),
            **self.place.environment(),
            **self.settings,
            **settings,
        }

    def check_alive(self) -> None:
        """Fail if a service exited on its own."""
        for service in self.services.values():
            service.check_alive()

    def publish(self, events: Iterable[Event]) -> None:
        """Publish slide.scanned events, retrying each until the broker acknowledges it."""
        with closing(open_publisher(self.place.bus)) as publisher:
            for event in events:
                until(partial(_published, publisher, event), 60, "the broker takes an event")
                self.acknowledged.append(event)

    def keys(self, prefix: str) -> list[str]:
        """List the keys under a prefix; [] while the store is down."""
        try:
            return [info.key for info in self.store.list(prefix)]
        except TransientError:
            return []

    def drafts(self) -> list[str]:
        """List the slides and cases that have a complete report, once per report."""
        return [found["slide"] for found in map(DRAFT.fullmatch, self.keys("reports/")) if found]

    def finished(self, label: str) -> int:
        """Count what a service has made so far."""
        if kind(label) == "gateway":
            return len(self.keys("slides/"))
        if kind(label) == "tiler":
            return sum(key.endswith(".parquet") for key in self.keys("bags/"))
        return len(self.drafts())

    def settle(self, ends: int, timeout_s: float) -> None:
        """Wait for `ends` reports and dead letters, and until no worker has anything left to do."""
        self.until(lambda: self.ended() >= ends, timeout_s, f"{ends} ends")
        self.until(self.idle, 60, "nothing is left to do")

    def until(self, condition: Callable[[], T], timeout_s: float, what: str) -> T:
        """Wait for a condition; on failure report the state of the stream."""
        try:
            return until(condition, timeout_s, what, every_s=LOOK_S)
        except AssertionError as error:
            error.add_note(str(self))
            raise

    def ended(self) -> int:
        """Count reports and dead letters."""
        self.check_alive()
        return len(self.drafts()) + len(self.keys(LETTERS))

    def idle(self) -> bool:
        """Return whether all groups have committed everything and no job is running."""
        return all(lag(self.place.bus, topic, group) == 0 for topic, group in TAKES.items()) and not any(
            service.in_flight() for service in self.services.values() if service.name != "gateway"
        )

    def stop(self) -> None:
        """Stop every service gracefully: all must exit with 0."""
        for service in self.services.values():
            service.ask_to_stop()
        ended = {label: service.left() for label, service in self.services.items()}
        self.services.clear()
        assert set(ended.values()) <= {0}, f"exit codes after SIGTERM: {ended}"

    def abort(self) -> None:
        """Kill all services that a failed test left running."""
        for service in self.services.values():
            if service.exit_code is None:
                service.kill()
        self.services.clear()

    def remains(self) -> Remains:
        """Collect what the stream left, once it has settled."""
        objects = self.everything()
        letters = {
            Path(key).stem: json.loads(self.store.get(key)) for key in objects if key.startswith(LETTERS)
        }
        pointers = {
            key.split("/")[1]: json.loads(self.store.get(key))["report_digest"]
            for key in objects
            if key.endswith("/latest.json")
        }
        undone = {group: lag(self.place.bus, topic, group) for topic, group in TAKES.items()}
        history, passed = self.history(), self.watch.found
        return Remains(objects, letters, pointers, undone, history, self.acknowledged, passed)

    def history(self) -> History:
        """Read the history from broker, store and logs."""
        logs = [*self.folder.glob("*.log"), *(self.logs.glob("*.log") if self.logs else ())]
        return read_history(self.place.bus, self.store, logs)

    def everything(self) -> dict[str, str]:
        """Return the SHA-256 of each object's bytes by its key."""
        return {info.key: hashlib.sha256(self.store.get(info.key)).hexdigest() for info in self.store.list()}

    def __str__(self) -> str:
        alive = {label: service for label, service in self.services.items() if service.exit_code is None}
        shown = {label: service.words() for label, service in alive.items()}
        return f"{len(self.drafts())} drafts, {len(self.keys(LETTERS))} dead letters; {shown}; {self.folder}"


def kind(label: str) -> str:
    """Return the service's name for a label: "tiler" for "tiler-2"."""
    return label.partition("-")[0]


def _published(publisher: Publisher, event: Event) -> bool:
    try:
        publisher.publish(event.type, event.key, event)
    except TransientError:
        return False
    return True

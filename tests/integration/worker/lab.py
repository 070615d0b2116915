"""A lab for workers: an embedded broker, a folder as store, workers as threads or processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, Unpack
from urllib.error import HTTPError

import worker_jobs
from service_access import TOKEN, bearer
from waiting import until
from worker_jobs import Options

from histgen_lib.bus import open_publisher, open_subscription
from histgen_lib.catalogue.dead_letter import DeadLetter, dead_letters
from histgen_lib.events import Event, SlideScanned
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import open_store

MINUTE_S = 60.0
W = TypeVar("W", "Thread", "Process")


class WorkerLab:
    """Publishes slides, runs workers, and reports what became of the slides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "token").touch(0o600)
        (folder / "token").write_text(TOKEN)
        self.store = open_store(worker_jobs.storage(folder))
        self._publisher = open_publisher(worker_jobs.bus(folder))
        self._running: list[Thread | Process] = []
        self._readers = {
            topic: (
                open_subscription(worker_jobs.bus(folder), topic, f"reader-{folder.name}"),
                Counter[str](),
            )
            for topic in ("report.drafted", "dead-letter")
        }

    def scan(self, *slide_ids: str, times: int = 1) -> None:
        for _ in range(times):
            for slide_id in slide_ids:
                self._publisher.publish("slide.scanned", slide_id, scanned(slide_id))

    def scan_raw(self, body: bytes) -> None:
        self._publisher.publish_raw("slide.scanned", "k", body)

    def thread(self, **options: Unpack[Options]) -> Thread:
        return self._add(Thread(self.folder, options))

    def process(self, **options: Unpack[Options]) -> Process:
        return self._add(Process(self.folder, options))

    def _add(self, worker: W) -> W:
        self._running.append(worker)
        return worker

    def calls(self, slide_id: str) -> int:
        path = self.folder / "calls" / slide_id
        return len(path.read_text().splitlines()) if path.exists() else 0

    def let_go(self, slide_id: str) -> None:
        (self.folder / "go").mkdir(exist_ok=True)
        (self.folder / "go" / slide_id).touch()

    def letters(self) -> dict[str, DeadLetter]:
        return {letter.event.key if letter.event else "": letter for letter in dead_letters(self.store)}

    def drafts(self) -> set[str]:
        return {info.key.split("/")[1] for info in self.store.list("reports/")}

    def attempts(self, slide_id: str) -> int:
        return len(list(self.store.list(f"attempts/tiler/{scanned(slide_id).id}/")))

    def left(self) -> int:
        """Count the unfinished records; only when no worker runs."""
        subscription = open_subscription(
            worker_jobs.bus(self.folder), "slide.scanned", f"tilers-{self.folder.name}"
        )
        try:
            subscription.next(0.0)
            return subscription.lag()
        finally:
            subscription.close()

    def finished(self, *slide_ids: str, timeout_s: float = MINUTE_S) -> None:
        """Wait until the draft or letter of each slide is published."""

        def ended() -> set[str]:
            return {*self.published("report.drafted"), *self.published("dead-letter")}

        until(lambda: set(slide_ids) <= ended(), timeout_s, f"an end of {slide_ids}")

    def written(self, *slide_ids: str) -> None:
        """Wait until each slide has a draft or a letter in the store."""
        until(
            lambda: set(slide_ids) <= self.drafts() | set(self.letters()), MINUTE_S, f"an end of {slide_ids}"
        )

    def published(self, topic: str) -> Counter[str]:
        """Count the events on a topic so far, by slide."""
        subscription, found = self._readers[topic]
        while delivery := subscription.next(0.0):
            found[delivery.event.key] += 1
            subscription.done(delivery)
        return found

    def close(self) -> None:
        for worker in self._running:
            worker.end()
        self._publisher.close()
        for subscription, _ in self._readers.values():
            subscription.close()


class Thread:
    """A worker in a thread of this process; its jobs run in a child all the same."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.stop, self._options = folder, Stop(), options
        self.exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.exit_code = worker_jobs.run(self.folder, self.stop, **self._options)

    def wait(self) -> int:
        self._thread.join(MINUTE_S)
        assert self.exit_code is not None, "the worker did not end"
        return self.exit_code

    def end(self) -> int:
        self.stop.request()
        return self.wait()

    @property
    def url(self) -> str:
        return until(lambda: _url(self.folder, os.getpid()), MINUTE_S, "a URL")


class Process:
    """A worker as a process of its own."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.log = folder / f"worker-{os.urandom(4).hex()}.log"
        main = Path(worker_jobs.__file__)
        path = os.pathsep.join([str(main.parent), *sys.path])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(main), str(folder), json.dumps(options)],
                stderr=log,
                stdout=log,
                env={**os.environ, "PYTHONPATH": path},
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(MINUTE_S)

    def wait(self) -> int:
        return self.process.wait(MINUTE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def url(self) -> str:
        return until(lambda: _url(self.folder, self.process.pid), MINUTE_S, "a URL")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def _url(folder: Path, pid: int) -> str | None:
    path = folder / "run" / f"tiler-{pid}.json"
    return json.loads(path.read_text())["url"] if path.exists() else None


def page(url: str, *, token: str = TOKEN) -> tuple[int, Any]:
    """Get a page with a token; return its status, and its text or JSON value."""
    try:
        request = urllib.request.Request(url, headers=bearer(token))
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, text = answer.status, answer.read().decode()
    except HTTPError as error:
        status, text = error.code, error.read().decode()
    return status, json.loads(text) if text.startswith("{") else text


def scanned(slide_id: str) -> Event:
    data = SlideScanned(slide_id, f"file:///{slide_id}.svs", "c" * 64, 10)
    now = datetime.now(UTC)
    return Event.first(data, source="/histgen/test", now=now, identity=slide_id)


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False

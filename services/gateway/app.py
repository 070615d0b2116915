"""Puts the gateway together, runs it until it is told to stop, and takes it apart."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from histgen_lib.access.places import Roots
from histgen_lib.bus import Publisher, open_publisher, open_subscription
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.index import store_name
from histgen_lib.catalogue.pruning import read_retention
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.runtime.http import announced, serving
from histgen_lib.runtime.lock import Lock
from histgen_lib.runtime.pulse import aside
from histgen_lib.runtime.stopping import Stop
from histgen_lib.secret import own_secret
from histgen_lib.storage import ObjectStore, StorageSettings, open_foreign_bucket, open_store
from histgen_lib.telemetry import get_logger
from services.gateway.board import NAME, GatewayBoard
from services.gateway.contents import Contents
from services.gateway.folder import Folder
from services.gateway.http import Door
from services.gateway.indexing import Indexing, Kept
from services.gateway.intake import Intake
from services.gateway.loops import Loop
from services.gateway.patience import Patience
from services.gateway.pruning import Pruning
from services.gateway.settings import GatewaySettings
from services.gateway.topic import GROUP, NotificationTopic
from services.gateway.watching import Watching
from services.wiring import (
    bus_settings,
    http_limits,
    slide_roots,
    storage_settings,
    token_file,
    warn_without_roots,
)

PROBE_S = 5.0
STEP_S = 1.0

_log = get_logger()


@dataclass
class Gateway:
    """A gateway, ready to run."""

    settings: GatewaySettings
    publisher: Publisher
    store: ObjectStore
    board: GatewayBoard
    door: Door
    loops: Sequence[Loop]
    stop: Stop
    _probing: Future[object] | None = None
    _probed_at: float = float("-inf")

    def run(self) -> int:
        """Run until the stop; finish what is in hand within the grace period. Return the exit code."""
        settings = self.settings
        with (
            serving(self.door.app(), settings.host, settings.port, http_limits(settings)) as url,
            announced(settings.run_dir, NAME, url, token_file(settings)),
        ):
            _log.info("The gateway is open.", url=url)
            for loop in self.loops:
                loop.thread.start()
            while not self.stop.wait(STEP_S):
                self.board.turn()
                self._probe()
            self.board.stopping = True
            self._drain()
        failures = [
            failure for failure in (self.door.failure, *(loop.failure for loop in self.loops)) if failure
        ]
        for failure in failures:
            _log.error("The gateway stops: this is for a person to mend.", exc_info=failure)
        _log.info("The gateway has stopped.", count=self.board.requests)
        return failures[0].exit_code if failures else 0

    def _drain(self) -> None:
        """Let requests and loops finish; what is not finished then was not announced, and comes again."""
        while not self.stop.over(self.settings.grace_s) and (self.board.requests or self._turning()):
            self.board.turn()
            time.sleep(0.02)
        self.door.close()
        self.publisher.close()

    def _turning(self) -> bool:
        return any(loop.thread.is_alive() for loop in self.loops)

    def _probe(self) -> None:
        """Look now and then whether the store is there."""
        if self._probing and self._probing.done():
            self._note(self._probing)
            self._probing = None
        if self._probing is None and self.board.clock() - self._probed_at >= PROBE_S:
            self._probed_at = self.board.clock()
            self._probing = aside(partial(self.store.head, keys.PROBE))

    def _note(self, probe: Future[object]) -> None:
        error = probe.exception()
        if isinstance(error, TransientError):
            self.board.lacks("store", error)
        elif isinstance(error, FatalError):
            self.door.failure = error
            self.stop.request()
        elif error is None:
            self.board.has("store")
            self.board.phase = "idle"


def build_intake(
    settings: GatewaySettings,
    roots: Roots,
    *,
    publisher: Publisher | None = None,
    store: ObjectStore | None = None,
) -> tuple[Intake, Publisher, ObjectStore]:
    """Wire an intake to broker and store. Raises FatalError for settings that cannot be used."""
    storage = storage_settings(settings)
    store = store or open_store(storage)
    publisher = publisher or open_publisher(bus_settings(settings))
    patience = Patience(settings.open_s)
    contents = Contents(roots, partial(_open_bucket, storage), patience, most_bytes=settings.slide_bytes)
    return Intake(publisher, store, contents), publisher, store


def build(
    settings: GatewaySettings,
    stop: Stop,
    *,
    publisher: Publisher | None = None,
    store: ObjectStore | None = None,
) -> Gateway:
    """Wire the gateway. Raises FatalError for settings that cannot be used."""
    warn_without_roots(settings)
    intake, publisher, store = build_intake(settings, slide_roots(settings), publisher=publisher, store=store)
    watched = settings.watch.resolve() if settings.watch else None
    board = GatewayBoard(announced=lambda: intake.announced)
    board.loops = loops = list(_loops(settings, watched, intake, board, stop))
    if settings.index:
        kept = Kept(settings.index, store_name(storage_settings(settings)))
        intake.told = kept.touch
        loops.append(Indexing(kept, store, board, stop, grace_s=settings.grace_s))
    if days := _retention(settings):
        loops.append(Pruning(store, bus_settings(settings), days, board, stop, grace_s=settings.grace_s))
    lock = Lock(own_secret(token_file(settings)))
    door = Door(intake, board, stop, lock, body_s=settings.http_body_s, threads=settings.hash_threads)
    return Gateway(settings, publisher, store, board, door, loops, stop)


def _loops(
    settings: GatewaySettings, watched: Path | None, intake: Intake, board: GatewayBoard, stop: Stop
) -> Iterator[Loop]:
    common: dict[str, Any] = {"board": board, "stop": stop, "grace_s": settings.grace_s}
    if watched:
        look_s = min(settings.look_s, settings.settle_s)
        yield Watching(
            Folder(watched),
            intake,
            settle_s=settings.settle_s,
            look_s=look_s,
            still_s=settings.open_s,
            **common,
        )
    if settings.notifications:
        subscribe = partial(open_subscription, bus_settings(settings), settings.notifications, GROUP)
        yield NotificationTopic(subscribe, intake, **common)


def _retention(settings: GatewaySettings) -> dict[str, float]:
    try:
        return read_retention(settings.retention)
    except InvalidInputError as error:
        raise FatalError(
            "settings-invalid", f"HISTGEN_RETENTION: {error.message}", hint=error.hint
        ) from error


def _open_bucket(storage: StorageSettings, bucket: str) -> ObjectStore:
    return open_foreign_bucket(storage, bucket)

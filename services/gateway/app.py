"""Puts the gateway together from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from histgen_lib.access.places import Roots
from histgen_lib.bus import Publisher, open_backlog, open_publisher, open_subscription
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.index import store_name
from histgen_lib.catalogue.pruning import read_retention
from histgen_lib.catalogue.sign_off import SignOff
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.loops import Loop, LoopContext, StoreProbe
from histgen_lib.runtime.service import WebService
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import ObjectStore, open_foreign_bucket, open_store
from histgen_lib.telemetry import metrics
from services.gateway import NAME
from services.gateway.backlog import BacklogWatch
from services.gateway.bucket_intake import GROUP, NotificationTopic
from services.gateway.contents import Contents
from services.gateway.folder import Folder
from services.gateway.housekeeping import Indexing, Pruning, SharedIndex
from services.gateway.http import HttpApi
from services.gateway.intake import Intake
from services.gateway.reminding import Reminding
from services.gateway.replaying import Replaying
from services.gateway.settings import GATEWAY, REFUSALS, GatewaySettings
from services.gateway.submission import Via
from services.gateway.watchdog import Watchdog
from services.gateway.watching import Watching
from services.table import SERVICES
from services.wiring import (
    bus_settings,
    http_address,
    slide_roots,
    storage_settings,
    warn_without_roots,
)

PROBE_S = 5.0


@dataclass
class GatewayBoard(WebBoard):
    """The gateway's state. `announced`: how many slides went out; `waiting`: how many wait in the folder."""

    worker: str = NAME
    announced: Callable[[], int] = lambda: 0
    waiting: Callable[[], int] = lambda: 0
    letters: Sequence[str] = GATEWAY.letters
    retries: Sequence[str] = GATEWAY.retries

    def __post_init__(self) -> None:
        super().__post_init__()
        metrics.show_gateway(get_args(Via), REFUSALS)

    def status(self) -> dict[str, object]:
        """Return what /status shows. `jobs_done`: slides announced."""
        return super().status() | {"jobs_done": self.announced(), "waiting": self.waiting()}


def build_intake(
    settings: GatewaySettings,
    roots: Roots,
    *,
    publisher: Publisher | None = None,
    store: ObjectStore | None = None,
) -> tuple[Intake, Publisher, ObjectStore]:
    """Connect an intake to broker and store. Raises FatalError for settings that cannot be used."""
    storage = storage_settings(settings)
    store = store or open_store(storage)
    publisher = publisher or open_publisher(bus_settings(settings))
    open_bucket = partial(open_foreign_bucket, storage)
    contents = Contents(roots, open_bucket, Watchdog(settings.open_s), most_bytes=settings.slide_bytes)
    return Intake(publisher, store, contents), publisher, store


def build(
    settings: GatewaySettings,
    stop: Stop,
    *,
    publisher: Publisher | None = None,
    store: ObjectStore | None = None,
) -> WebService:
    """Make the gateway, ready to run. Raises FatalError for settings that cannot be used."""
    warn_without_roots(settings)
    intake, publisher, store = build_intake(settings, slide_roots(settings), publisher=publisher, store=store)
    board = GatewayBoard(announced=lambda: intake.announced)
    context = LoopContext(board, stop, settings.grace_s)
    loops = [*_loops(settings, context, intake, store), Reminding(context, store, publisher)]
    board.waiting = lambda: sum(loop.waiting for loop in loops if isinstance(loop, Watching))
    api = HttpApi(
        intake,
        board,
        stop,
        Replaying(store, publisher, lambda slide_id: intake.on_news(slide_id, "")),
        SignOff(store, publisher),
        config=settings.in_force(),
        body_s=settings.http_body_s,
        threads=settings.hash_threads,
    )

    def close() -> None:
        api.close()
        publisher.close()

    return WebService(
        app=api.app(),
        address=http_address(settings),
        board=board,
        stop=stop,
        probe=StoreProbe(store, board, key=keys.PROBE, every_s=PROBE_S),
        loops=loops,
        grace_s=settings.grace_s,
        close=close,
    )


def _loops(
    settings: GatewaySettings, context: LoopContext, intake: Intake, store: ObjectStore
) -> Iterator[Loop]:
    bus = bus_settings(settings)
    if settings.watch:
        yield Watching(
            context,
            Folder(settings.watch.resolve()),
            intake,
            settle_s=settings.settle_s,
            look_s=min(settings.look_s, settings.settle_s),
            still_s=settings.open_s,
        )
    if settings.notifications:
        subscribe = partial(open_subscription, bus, settings.notifications, GROUP)
        yield NotificationTopic(context, subscribe, intake)
    workers = [row for row in SERVICES if row.takes and (settings.case_index or not row.retrieval)]
    yield BacklogWatch(context, partial(open_backlog, bus), workers)
    if settings.index:
        index = SharedIndex(settings.index, store_name(storage_settings(settings)))
        intake.on_news = index.touch
        yield Indexing(context, index, store)
    if days := read_retention(settings.retention):
        yield Pruning(context, store, bus, days)

"""The local stack: broker, inference and services of one machine, started together, kept running, stopped."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from histgen_lib.access.places import Roots
from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.catalogue.indexer import settle_stopped
from histgen_lib.catalogue.pruning import read_retention
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.client.privacy import close_bus, close_store
from histgen_lib.client.workers import WorkerState, look
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.models.histgen.folder import open_model_folder
from histgen_lib.resources import disk_problem, lacked_resources
from histgen_lib.runtime.stopping import Stop
from histgen_lib.secret import own_secret
from histgen_lib.stack.children import end_strays, free_port
from histgen_lib.stack.inference import Inference, choose_inference
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.kafka_door import KafkaDoor
from histgen_lib.stack.metering import count_restart, metered
from histgen_lib.stack.processes import BACKOFF, SAY_S, Keeper, Process, ServiceProcess, State
from histgen_lib.stack.settings import (
    RUN_DIR,
    StackSettings,
    service_environment,
    service_module,
    service_names,
)
from histgen_lib.stack.triton import clear_left_over
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.telemetry import metrics

if TYPE_CHECKING:
    from histgen_lib.inference import Supervisor

_PATIENCE_S = 10.0
"""What a service may take to leave beyond that."""
_READY_S = 180.0
_HEAD_START_S = 20.0
_LOOK_S = 0.2


T = TypeVar("T")
_START = "the start"


@dataclass(frozen=True)
class News:
    """What is to be told of a part, or of the stack's start.

    `trouble`: why it ends again and again, or what is lacking, since `since_s` seconds; "" if it is well. It
    is to be said once for each `said_at` (monotonic seconds). `last`: why it ended the last time.
    """

    name: str
    state: State
    since_s: float = 0.0
    trouble: str = ""
    last: str = ""
    said_at: float = 0.0


@dataclass(frozen=True)
class PartState:
    """One process of the stack. `worker`: what a service says of itself, once it says anything.

    `trouble`: why it ends again and again; "" while it is well.
    """

    name: str
    state: State
    restarts: int
    pid: int | None
    log: Path
    worker: WorkerState | None = None
    trouble: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can do its work now."""
        return self.state == "running" and (self.worker is None or self.worker.ready)


class LocalStack:
    """A context: starts on entry, stops on exit with whatever is in hand finished or handed back.

    `told` is called, from any thread, with news of a part. `stop`: ends the start, and what is waited for
    here, with Stopped. On entry raises FatalError: "stack-running", "stack-home", and what the broker's,
    Triton's and the services' starts raise. What may pass is waited for, before the first process is started,
    too: a part that ends is started again for as long as it takes.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        told: Callable[[News], None] = lambda news: None,
        stop: Stop | None = None,
    ) -> None:
        self.settings = settings
        self.home = StackHome(settings.home)
        self.bus = ""
        self.inference: Inference | None = None
        self.url = ""
        self._told = told
        self._keepers: list[Keeper] = []
        self._services: list[Keeper] = []
        self._supervisor: Supervisor | None = None
        self._open = ExitStack()
        self._stop = stop or Stop()

    def __enter__(self) -> Self:
        try:
            self._insist(lambda: self._open.enter_context(self.home.locked()))
            self._open.enter_context(_logged(self.home.log("stack")))
            self._start()
        except BaseException:
            self._stop.request()
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.request()
        self._open.close()

    @property
    def record(self) -> StackRecord:
        """How to reach the stack."""
        settings = self.settings
        assert self.inference is not None
        return StackRecord(
            pid=os.getpid(),
            gateway=self.url,
            bus=self.bus,
            store=settings.store_url,
            store_endpoint=settings.store_endpoint,
            inference=self.inference.url,
            watch=str(settings.inbox),
            roots=settings.allowed,
        )

    def check(self) -> None:
        """Raise the error of a part that was given up."""
        for keeper in self._keepers:
            if keeper.error:
                raise keeper.error

    def parts(self) -> list[PartState]:
        """Return the state of every process, asking the services for theirs."""
        workers = {worker.pid: worker for worker in look(self.home.run_dir)}
        return [self._part(keeper, workers.get(keeper.process.pid or 0)) for keeper in self._keepers]

    def servers(self) -> list[PartState]:
        """Return the state of what is no service of ours: Kafka, Triton."""
        return [self._part(keeper, None) for keeper in self._keepers if keeper not in self._services]

    def ready(self) -> bool:
        """Whether everything can do its work now."""
        return all(part.ready for part in self.parts())

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Return once everything is ready. Raises as `check`, TransientError("stack-slow"), and Stopped."""
        end = time.monotonic() + timeout_s
        while not self.ready():
            self.check()
            self._stop.check()
            if time.monotonic() > end:
                raise self._slow()
            self._stop.wait(_LOOK_S)

    def _start(self) -> None:
        settings = self.settings
        store = StorageSettings(settings.store_url, settings.store_endpoint)
        ours = f"{RUN_DIR}={self.home.run_dir}"
        self._open.callback(end_strays, ours)
        end_strays(ours)
        self._open.callback(settle_stopped, self.home.index_path, store)
        self._insist(self._check_settings)
        self._insist(lambda: settings.inbox.mkdir(parents=True, exist_ok=True))
        self._insist(lambda: self._open.enter_context(metered(self.home.run_dir)))
        self.url = f"http://127.0.0.1:{settings.port or self._insist(free_port)}"
        broker = self._insist(self._start_broker)
        self._start_inference()
        if broker:
            self._await(broker)
        self._stop.check()
        names = service_names(settings)
        self._services = self._insist(lambda: self._keep([(name, self._service(name)) for name in names]))
        self._insist(lambda: self.home.write(self.record))

    def _insist(self, step: Callable[[], T]) -> T:
        """Do a step of the start, and again while what it lacks may pass. Raises Stopped, and the rest."""
        began_at, said_at = time.monotonic(), float("-inf")
        for delay_s in BACKOFF.delays():
            self._stop.check()
            try:
                done = step()
            except (HistgenError, OSError) as error:
                if not (isinstance(error, TransientError) or lacked_resources(error)):
                    raise
                if time.monotonic() - said_at >= SAY_S:
                    said_at = time.monotonic()
                    self._say(
                        News(_START, "starting", said_at - began_at, self._lack(error), said_at=said_at)
                    )
            else:
                if said_at > 0:
                    self._say(News(_START, "starting"))
                return done
            self._stop.wait(delay_s)
        raise AssertionError("delays never end")

    def _lack(self, error: HistgenError | OSError) -> str:
        """Say what a step of the start lacks."""
        folder = next(one for one in (self.home.folder, *self.home.folder.parents) if one.exists())
        if lack := disk_problem(folder):
            return f"{lack} [disk-full]"
        return f"{error} [{error.code}]" if isinstance(error, HistgenError) else f"{error.strerror}."

    def _check_settings(self) -> None:
        """Refuse what the services would refuse, before anything is started."""
        settings = self.settings
        own_secret(self.home.token_path)
        Roots.read(settings.allowed)
        read_retention(settings.retention)
        open_model_folder(settings.model)
        storage = StorageSettings(settings.store_url, settings.store_endpoint)
        with suppress(TransientError):  # the services wait for it
            open_store(storage)
            close_store(storage)
        if settings.broker != "kafka":
            bus = BusSettings(settings.bus_url)
            with suppress(TransientError):
                open_publisher(bus).close()
            close_bus(bus)

    def _start_broker(self) -> Keeper | None:
        """Say which broker it is, and start it if it is ours."""
        if self.settings.broker != "kafka":
            self.bus = self.settings.bus_url
            return None
        door = KafkaDoor(self.home.secret("kafka"), self.home.kafka_client_path)
        days = read_retention(self.settings.retention).get("broker", 0.0)
        kept = f"log.retention.hours={max(1, round(24 * days))}\n" if days else ""
        folder = self.home.kafka_client_path.parent
        kafka = KafkaProcess(self.settings.kafka_libs, folder, door=door, settings=kept)
        self.bus = kafka.url
        (keeper,) = self._keep([("kafka", kafka)])
        return keeper

    def _start_inference(self) -> None:
        clear_left_over()  # whatever runs the models this time: a killed stack's Triton had pixels in memory
        self._insist(self._choose_inference)
        if self.inference and (process := self.inference.process):
            self._keep([("triton", process)])
            self._open.callback(self._end_supervisor)

    def _choose_inference(self) -> None:
        settings = self.settings
        self.inference = choose_inference(settings.inference, settings.model, self.home, settings.triton_home)

    def _await(self, keeper: Keeper) -> None:
        """Give a broker of ours a head start; the services wait for a slow one by themselves."""
        end = time.monotonic() + _HEAD_START_S
        while not keeper.wait_running(_LOOK_S) and time.monotonic() < end:
            self._stop.check()
        self.check()

    def _keep(self, named: Sequence[tuple[str, Process]]) -> list[Keeper]:
        keepers = [
            Keeper(name, process, changed=self._tell, noted=self._note, frozen_s=self.settings.frozen_s)
            for name, process in named
        ]
        for name, _ in named:
            metrics.show_part(name)
        self._keepers += keepers
        self._open.callback(_stop, keepers)
        for keeper in keepers:
            keeper.start()
        return keepers

    def _tell(self, keeper: Keeper) -> None:
        if keeper.name == "triton" and keeper.state == "running":
            self._start_supervisor()
        since_s = time.monotonic() - keeper.troubled_at if keeper.trouble else 0.0
        self._say(News(keeper.name, keeper.state, since_s, keeper.trouble, keeper.last, keeper.said_at))

    def _note(self, part: str, frozen: bool) -> None:
        count_restart(part, frozen)
        if frozen and part not in {keeper.name for keeper in self._keepers}:
            last = f"The process of {part} was stopped for {self.settings.frozen_s:.0f} s, and was ended."
            self._say(News(part, "restarting", last=last))

    def _say(self, news: News) -> None:
        with suppress(OSError):  # whoever was told may be a terminal that is closed, or a file on a full disk
            self._told(news)

    def _start_supervisor(self) -> None:
        """Have Triton's models looked after, once they run for the first time."""
        if self._supervisor is None and self.inference and not self._stop.requested:
            self._supervisor = self.inference.supervisor()
            if self._supervisor:
                self._supervisor.start()

    def _end_supervisor(self) -> None:
        if self._supervisor:
            self._supervisor.stop()

    def _part(self, keeper: Keeper, worker: WorkerState | None) -> PartState:
        pid, service = keeper.process.pid, keeper in self._services
        if service and worker is None:
            worker = WorkerState(keeper.name, pid or 0, "")  # it has not yet said where it listens
        return PartState(
            keeper.name,
            keeper.state,
            keeper.restarts,
            pid,
            keeper.process.log_path,
            worker if service else None,
            keeper.trouble,
        )

    def _service(self, name: str) -> ServiceProcess:
        assert self.inference is not None
        environment = service_environment(
            self.settings, name, home=self.home, bus=self.bus, inference=self.inference.url, gateway=self.url
        )
        return ServiceProcess(
            name,
            [sys.executable, "-P", "-m", service_module(name)],
            environment,
            self.home.log(name),
            grace_s=self.settings.grace_s + _PATIENCE_S,
            run_dir=self.home.run_dir,
        )

    def _slow(self) -> HistgenError:
        late = ", ".join(f"{part.name} ({_why(part)})" for part in self.parts() if not part.ready)
        return TransientError(
            "stack-slow",
            f"The stack is not ready in time: {late}.",
            hint=f"The logs in {self.home.logs} say why.",
        )


class _Lines(logging.FileHandler):
    """A log that is left out where it cannot be written: on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: it would go to the terminal, over the picture."""


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Have what the library logs in this process (Triton's supervisor does) in a file, not in a picture."""
    logger, handler = logging.getLogger("histgen_lib"), _Lines(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _stop(keepers: Sequence[Keeper]) -> None:
    for keeper in keepers:
        keeper.ask_stop()
    for keeper in keepers:
        keeper.join()


def _why(part: PartState) -> str:
    if part.trouble:
        return part.trouble.rstrip(".")
    if part.worker and part.worker.missing:
        return ", ".join(f"{name}: {code}" for name, code in part.worker.missing.items())
    return part.state if part.state != "running" else "starting"

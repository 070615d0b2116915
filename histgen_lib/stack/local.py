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
from typing import TYPE_CHECKING, Self

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.models.histgen.folder import open_model_folder
from histgen_lib.secret import own_secret
from histgen_lib.stack.children import free_port
from histgen_lib.stack.home import StackHome, StackRecord
from histgen_lib.stack.indexing import settle_stopped
from histgen_lib.stack.inference import Inference, choose_inference
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.processes import Keeper, Process, ServiceProcess, State
from histgen_lib.stack.pruning import read_retention
from histgen_lib.stack.settings import StackSettings, service_environment, service_module, service_names
from histgen_lib.stack.triton import clear_left_over
from histgen_lib.stack.workers import WorkerState, look
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.worker import Stop

if TYPE_CHECKING:
    from histgen_lib.inference import Supervisor

_PATIENCE_S = 10.0
"""What a service may take to leave beyond that."""
_READY_S = 180.0
_LOOK_S = 0.2


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

    `changed` is called, from any thread, with the name, state and trouble of a part that changed. `stop`:
    ends the start, and what is waited for here, with Stopped. On entry raises FatalError: "stack-running",
    "stack-home", and what the broker's, Triton's and the services' starts raise. What may pass is waited for:
    a part that ends is started again for as long as it takes.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        changed: Callable[[str, State, str], None] = lambda name, state, trouble: None,
        stop: Stop | None = None,
    ) -> None:
        self.settings = settings
        self.home = StackHome(settings.home)
        self.bus = ""
        self.inference: Inference | None = None
        self.url = ""
        self._changed = changed
        self._keepers: list[Keeper] = []
        self._services: list[Keeper] = []
        self._supervisor: Supervisor | None = None
        self._open = ExitStack()
        self._stop = stop or Stop()

    def __enter__(self) -> Self:
        try:
            self._open.enter_context(self.home.locked())
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
            roots=(str(settings.inbox), *settings.roots),
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
        self._open.callback(settle_stopped, self.home.index_path, store)
        self._check_settings()
        settings.inbox.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{settings.port or free_port()}"
        broker = self._start_broker()
        self._start_inference()
        if broker:
            self._await(broker)
        self._stop.check()
        names = service_names(settings)
        self._services = self._keep([(name, self._service(name)) for name in names])
        self.home.write(self.record)

    def _check_settings(self) -> None:
        """Refuse what the services would refuse, before anything is started."""
        settings = self.settings
        own_secret(self.home.token_path)
        read_retention(settings.retention)
        open_model_folder(settings.model)
        with suppress(TransientError):  # the services wait for it
            open_store(StorageSettings(settings.store_url, settings.store_endpoint))
        if settings.broker != "kafka":
            with suppress(TransientError):
                open_publisher(BusSettings(settings.bus_url)).close()

    def _start_broker(self) -> Keeper | None:
        """Say which broker it is, and start it if it is ours."""
        if self.settings.broker != "kafka":
            self.bus = self.settings.bus_url
            return None
        days = read_retention(self.settings.retention).get("broker", 0.0)
        kept = f"log.retention.hours={max(1, round(24 * days))}\n" if days else ""
        kafka = KafkaProcess(self.settings.kafka_libs, self.home.folder / "kafka", settings=kept)
        self.bus = kafka.url
        (keeper,) = self._keep([("kafka", kafka)])
        return keeper

    def _start_inference(self) -> None:
        settings = self.settings
        clear_left_over()  # whatever runs the models this time: a killed stack's Triton had pixels in memory
        chosen = choose_inference(settings.inference, settings.model, self.home, settings.triton_home)
        self.inference = chosen
        if chosen.process:
            self._keep([("triton", chosen.process)])
            self._open.callback(self._end_supervisor)

    def _await(self, keeper: Keeper) -> None:
        while not keeper.wait_running(_LOOK_S):
            self._stop.check()
        self.check()

    def _keep(self, named: Sequence[tuple[str, Process]]) -> list[Keeper]:
        keepers = [Keeper(name, process, changed=self._tell) for name, process in named]
        self._keepers += keepers
        self._open.callback(_stop, keepers)
        for keeper in keepers:
            keeper.start()
        return keepers

    def _tell(self, keeper: Keeper) -> None:
        if keeper.name == "triton" and keeper.state == "running":
            self._start_supervisor()
        with suppress(OSError):  # whoever was told may be a terminal that is closed
            self._changed(keeper.name, keeper.state, keeper.trouble)

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
        )

    def _slow(self) -> HistgenError:
        late = ", ".join(f"{part.name} ({_why(part)})" for part in self.parts() if not part.ready)
        return TransientError(
            "stack-slow",
            f"The stack is not ready in time: {late}.",
            hint=f"The logs in {self.home.logs} say why.",
        )


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Have what the library logs in this process (Triton's supervisor does) in a file, not in a picture."""
    logger, handler = logging.getLogger("histgen_lib"), logging.FileHandler(path, delay=True)
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

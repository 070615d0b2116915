"""The local stack: the broker, inference server and services of one machine, started and kept running."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from histgen_lib.access.places import Roots
from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.catalogue.indexer import settle_stopped
from histgen_lib.catalogue.pruning import read_retention
from histgen_lib.client.api import WorkerState, worker_states
from histgen_lib.client.home import StackHome, StackRecord, close_bus, close_store
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.models.folder import open_model_folder
from histgen_lib.resources import disk_problem, lacked_resources
from histgen_lib.runtime.stopping import Stop
from histgen_lib.secret import own_secret
from histgen_lib.stack.children import end_strays, free_port
from histgen_lib.stack.inference import Inference, choose_inference
from histgen_lib.stack.kafka import KafkaAuth, KafkaProcess
from histgen_lib.stack.monitoring import clear_targets, count_restart, log_to_file, serve_metrics
from histgen_lib.stack.processes import BACKOFF, REPEAT_S, Process, ProcessSupervisor, ServiceProcess, State
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

_EXTRA_GRACE_S = 10.0
"""How long a service may take to stop beyond its grace period."""
_READY_S = 180.0
_HEAD_START_S = 20.0
_POLL_S = 0.2


T = TypeVar("T")
_START = "the start"


@dataclass(frozen=True)
class Notice:
    """Something to report about a part of the stack, or about its start.

    `trouble`: why it keeps failing, or what is missing, for `since_s` seconds; "" if it is well; to be
    reported once for each `reported_at` (monotonic seconds). `last`: why it ended last.
    """

    name: str
    state: State
    since_s: float = 0.0
    trouble: str = ""
    last: str = ""
    reported_at: float = 0.0


@dataclass(frozen=True)
class PartState:
    """One process of the stack. `worker`: a service's own account of its state.

    `trouble`: why it keeps failing; "" while it is well.
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
        """Whether it can work now."""
        return self.state == "running" and (self.worker is None or self.worker.ready)


class LocalStack:
    """A context manager: starts the stack on entry; on exit stops it, with jobs finished or handed back.

    `on_notice` is called, from any thread, when there is something to report. `stop` ends the start, and any
    wait here, with Stopped. `clock`: monotonic seconds. Entry raises FatalError: "stack-running",
    "stack-home", and what the starts of the broker, of Triton and of the services raise. It retries for as
    long as the cause may be temporary, and so is any part restarted.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        on_notice: Callable[[Notice], None] = lambda notice: None,
        stop: Stop | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.home = StackHome(settings.home)
        self.bus = ""
        self.inference: Inference | None = None
        self.url = ""
        self._on_notice, self._clock = on_notice, clock
        self._supervisors: list[ProcessSupervisor] = []
        self._services: list[ProcessSupervisor] = []
        self._model_supervisor: Supervisor | None = None
        self._open = ExitStack()
        self._stop = stop or Stop()

    def __enter__(self) -> Self:
        try:
            self._retry(lambda: self._open.enter_context(self.home.locked()))
            self._open.enter_context(log_to_file(self.home.log("stack")))
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
        """What stack.json is to say: how to reach the stack."""
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
        """Raise the error of a part that is not restarted any more."""
        for supervisor in self._supervisors:
            if supervisor.error:
                raise supervisor.error

    def parts(self) -> list[PartState]:
        """Return the state of every process; ask the services for theirs."""
        workers = {worker.pid: worker for worker in worker_states(self.home.run_dir)}
        return [self._part(one, workers.get(one.process.pid or 0)) for one in self._supervisors]

    def servers(self) -> list[PartState]:
        """Return the state of the servers that are not our services: Kafka, Triton."""
        return [self._part(one, None) for one in self._supervisors if one not in self._services]

    def ready(self) -> bool:
        """Return whether every part can work now."""
        return all(part.ready for part in self.parts())

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Return once everything is ready. Raises as `check`, TransientError("stack-slow"), and Stopped."""
        end = self._clock() + timeout_s
        while not self.ready():
            self.check()
            self._stop.check()
            if self._clock() > end:
                raise self._slow()
            self._stop.wait(_POLL_S)

    def _start(self) -> None:
        settings = self.settings
        store = StorageSettings(settings.store_url, settings.store_endpoint)
        ours = f"{RUN_DIR}={self.home.run_dir}"
        self._open.callback(end_strays, ours)
        end_strays(ours)
        clear_targets(self.home.run_dir)
        self._open.callback(settle_stopped, self.home.index_path, store)
        self._retry(self._check_settings)
        self._retry(lambda: settings.inbox.mkdir(parents=True, exist_ok=True))
        self._retry(lambda: self._open.enter_context(serve_metrics(self.home.run_dir)))
        self.url = f"http://127.0.0.1:{settings.port or self._retry(free_port)}"
        broker = self._retry(self._start_broker)
        self._start_inference()
        if broker:
            self._await(broker)
        self._stop.check()
        names = service_names(settings)
        self._services = self._retry(lambda: self._keep([(name, self._service(name)) for name in names]))
        self._retry(lambda: self.home.write(self.record))

    def _retry(self, step: Callable[[], T]) -> T:
        """Run a step of the start until what it lacks is there. Raises Stopped, and permanent errors."""
        began_at, reported_at = self._clock(), float("-inf")
        for delay_s in BACKOFF.delays():
            self._stop.check()
            try:
                result = step()
            except (HistgenError, OSError) as error:
                if not (isinstance(error, TransientError) or lacked_resources(error)):
                    raise
                if self._clock() - reported_at >= REPEAT_S:
                    reported_at = self._clock()
                    lack, since_s = self._lack(error), reported_at - began_at
                    self._report(Notice(_START, "starting", since_s, lack, reported_at=reported_at))
            else:
                if reported_at > 0:
                    self._report(Notice(_START, "starting"))
                return result
            self._stop.wait(delay_s)
        raise AssertionError("delays never end")

    def _lack(self, error: HistgenError | OSError) -> str:
        """Return what a step of the start lacks, for people."""
        folder = next(one for one in (self.home.folder, *self.home.folder.parents) if one.exists())
        if lack := disk_problem(folder):
            return f"{lack} [disk-full]"
        return f"{error} [{error.code}]" if isinstance(error, HistgenError) else f"{error.strerror}."

    def _check_settings(self) -> None:
        """Refuse wrong settings before anything is started, as the services would."""
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

    def _start_broker(self) -> ProcessSupervisor | None:
        """Set the broker's URL, and start it if it is ours."""
        if self.settings.broker != "kafka":
            self.bus = self.settings.bus_url
            return None
        auth = KafkaAuth(self.home.secret("kafka"), self.home.kafka_client_path)
        days = read_retention(self.settings.retention).get("broker", 0.0)
        extra = f"log.retention.hours={max(1, round(24 * days))}\n" if days else ""
        folder = self.home.kafka_client_path.parent
        kafka = KafkaProcess(self.settings.kafka_libs, folder, auth=auth, settings=extra)
        self.bus = kafka.url
        (supervisor,) = self._keep([("kafka", kafka)])
        return supervisor

    def _start_inference(self) -> None:
        clear_left_over()  # always: the Triton of a killed stack had pixels in shared memory
        self._retry(self._choose_inference)
        if self.inference and (process := self.inference.process):
            self._keep([("triton", process)])
            for model in process.models:  # their processes are restarted one by one
                metrics.show_part(model)
            self._open.callback(self._end_model_supervisor)

    def _choose_inference(self) -> None:
        settings = self.settings
        self.inference = choose_inference(settings.inference, settings.model, self.home, settings.triton_home)

    def _await(self, supervisor: ProcessSupervisor) -> None:
        """Give a broker of ours a head start; the services wait for a slow one themselves."""
        end = self._clock() + _HEAD_START_S
        while not supervisor.wait_running(_POLL_S) and self._clock() < end:
            self._stop.check()
        self.check()

    def _keep(self, named: Sequence[tuple[str, Process]]) -> list[ProcessSupervisor]:
        supervisors = [
            ProcessSupervisor(
                name, process, changed=self._changed, on_end=self._ended, frozen_s=self.settings.frozen_s
            )
            for name, process in named
        ]
        for name, _ in named:
            metrics.show_part(name)
        self._supervisors += supervisors
        self._open.callback(_stop, supervisors)
        for supervisor in supervisors:
            supervisor.start()
        return supervisors

    def _changed(self, supervisor: ProcessSupervisor) -> None:
        if supervisor.name == "triton" and supervisor.state == "running":
            self._start_model_supervisor()
        since_s = self._clock() - supervisor.troubled_at if supervisor.trouble else 0.0
        trouble, last, reported_at = supervisor.trouble, supervisor.last, supervisor.reported_at
        self._report(Notice(supervisor.name, supervisor.state, since_s, trouble, last, reported_at))

    def _ended(self, part: str, frozen: bool) -> None:
        count_restart(part, frozen)
        clear_targets(self.home.run_dir)
        if frozen and part not in {supervisor.name for supervisor in self._supervisors}:
            last = f"The process of {part} was stopped for {self.settings.frozen_s:.0f} s, and was killed."
            self._report(Notice(part, "restarting", last=last))

    def _report(self, notice: Notice) -> None:
        with suppress(OSError):  # the terminal may be closed, or the disk of a log full
            self._on_notice(notice)

    def _start_model_supervisor(self) -> None:
        """Start supervising Triton's models, once they run for the first time."""
        if self._model_supervisor is None and self.inference and not self._stop.requested:
            self._model_supervisor = self.inference.supervisor()
            if self._model_supervisor:
                self._model_supervisor.start()

    def _end_model_supervisor(self) -> None:
        if self._model_supervisor:
            self._model_supervisor.stop()

    def _part(self, supervisor: ProcessSupervisor, worker: WorkerState | None) -> PartState:
        pid, service = supervisor.process.pid, supervisor in self._services
        if service and worker is None:
            worker = WorkerState(supervisor.name, pid or 0, "")  # it has not announced itself yet
        return PartState(
            supervisor.name,
            supervisor.state,
            supervisor.restarts,
            pid,
            supervisor.process.log_path,
            worker if service else None,
            supervisor.trouble,
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
            grace_s=self.settings.grace_s + _EXTRA_GRACE_S,
            run_dir=self.home.run_dir,
        )

    def _slow(self) -> HistgenError:
        late = ", ".join(f"{part.name} ({_why(part)})" for part in self.parts() if not part.ready)
        return TransientError(
            "stack-slow",
            f"The stack is not ready yet: {late}.",
            hint=f"The logs in {self.home.logs} say why.",
        )


def _stop(supervisors: Sequence[ProcessSupervisor]) -> None:
    for supervisor in supervisors:
        supervisor.ask_stop()
    for supervisor in supervisors:
        supervisor.join()


def _why(part: PartState) -> str:
    if part.trouble:
        return part.trouble.rstrip(".")
    if part.worker and part.worker.missing:
        return ", ".join(f"{name}: {code}" for name, code in part.worker.missing.items())
    return part.state if part.state != "running" else "starting"

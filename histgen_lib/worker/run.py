"""Puts a worker together, runs it until it is told to stop, and takes it apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from histgen_lib.bus import BusSettings, Subscription, open_publisher, open_subscription
from histgen_lib.errors import TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import Pulse
from histgen_lib.runtime.service import exit_code
from histgen_lib.runtime.stopping import Stop, stopped_by_signals
from histgen_lib.runtime.web.guard import BearerAuth
from histgen_lib.runtime.web.server import health_app, registered, serving
from histgen_lib.secret import own_secret
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.telemetry import bound, get_logger
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.kit import Kit
from histgen_lib.worker.loop import Loop
from histgen_lib.worker.patience import Patience
from histgen_lib.worker.process import JobProcess
from histgen_lib.worker.runner import Runner
from histgen_lib.worker.spec import WorkerSpec

_log = get_logger()


def run_worker(
    spec: WorkerSpec, *, bus: BusSettings, storage: StorageSettings, stop: Stop | None = None
) -> int:
    """Work on the events of `spec.topic` until SIGTERM or SIGINT; return the process's exit code.

    0: stopped, and what was in hand is finished or handed back. Else the FatalError's own code, with the
    record in hand uncommitted: whoever restarts the worker continues there. 70: a fault of the worker's own,
    likewise. Call it in the main thread; elsewhere give a `stop`, as signals are not heard there.
    """
    signals = nullcontext(stop) if stop else stopped_by_signals(Stop())
    with bound(worker=spec.name), signals as stopping:
        return exit_code(lambda: _run(spec, bus, storage, stopping))


def _run(spec: WorkerSpec, bus: BusSettings, storage: StorageSettings, stop: Stop) -> None:
    board = Board(spec.name, letters=spec.letters, retries=spec.retries)
    auth = BearerAuth(own_secret(spec.token_file))
    with ExitStack() as open_things:
        pages = serving(health_app(board, auth), spec.host, spec.port, spec.http)
        url = open_things.enter_context(pages)
        open_things.enter_context(registered(spec.run_dir, spec.name, url, spec.token_file))
        _log.info("The worker starts.", topic=spec.topic, group=spec.group, url=url)
        pulse = Pulse(board, stop, grace_s=spec.grace_s, backoff=spec.backoff)
        kit = open_things.enter_context(_kit(spec, bus, storage, board, pulse))
        _log.info("The worker is ready.")
        Loop(kit, stop).run()
    _log.info("The worker has stopped.")


@contextmanager
def _kit(
    spec: WorkerSpec, bus: BusSettings, storage: StorageSettings, board: Board, pulse: Pulse
) -> Iterator[Kit]:
    """Open everything; join the group last, when a child process stands ready."""
    process = JobProcess(spec.make_handler, spec.name)
    runner = Runner(spec, process, board, pulse)
    with ExitStack() as open_things:
        open_things.callback(process.close)
        runner.start()
        store = pulse.insist("store", lambda: open_store(storage), patient=False)
        publisher = pulse.insist("opening", lambda: open_publisher(bus), patient=False)
        open_things.callback(publisher.close)
        pulse.insist("process", runner.warm, patient=False)
        subscription = pulse.insist(
            "opening", lambda: open_subscription(bus, spec.topic, spec.group), patient=False
        )
        open_things.callback(_leave, subscription, pulse)
        pulse.subscription = subscription
        attempts = Attempts(store, spec.name)
        patience = Patience(spec.backoff, board)
        yield Kit(spec, subscription, publisher, store, attempts, runner, pulse, board, patience)


def _leave(subscription: Subscription, pulse: Pulse) -> None:
    pulse.subscription = None
    with suppress(TransientError):  # then the session runs out by itself
        subscription.close()

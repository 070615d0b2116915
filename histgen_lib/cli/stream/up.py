"""`histgen up`: the whole stream on this machine, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream.options import Home, StoreEndpoint, server_places
from histgen_lib.errors import TransientError
from histgen_lib.resources import was_full

T = TypeVar("T")
_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rich.console import Console

    from histgen_lib.runtime.stopping import Stop
    from histgen_lib.stack.local import LocalStack, Notice
    from histgen_lib.stack.settings import StackSettings

_FROZEN_S, _LEAST_FROZEN_S, _MOST_FROZEN_S = 60.0, 10.0, 86400.0
_WAIT_S = 60.0
"""How often to say what the start is waiting for."""
_PAUSE_S = 5.0
_STOPPING = "Stopping: running jobs are finished or handed back. Press Ctrl-C again to end at once."


def up(
    *,
    home: Home = None,
    watch: Annotated[
        Path | None,
        typer.Option("--watch", metavar="DIR", help="Folder to watch for new slides. Default: HOME/inbox."),
    ] = None,
    broker: Annotated[
        str,
        typer.Option("--broker", help="embedded (one file), kafka (started here), or kafka://host:port."),
    ] = "embedded",
    store: Annotated[
        str | None,
        typer.Option(
            "--store", metavar="URL", help='"file:/folder" or "s3://bucket/prefix". Default: HOME/objects.'
        ),
    ] = None,
    store_endpoint: StoreEndpoint = None,
    inference: Annotated[
        str,
        typer.Option(
            "--inference",
            help="auto, onnx (in each worker), triton (started here), or triton://host:port. "
            "auto: triton if deploy/setup.sh triton has installed it, else onnx.",
        ),
    ] = "auto",
    model: Model = None,
    tilers: Annotated[
        int, typer.Option("--tilers", min=1, max=64, metavar="N", help="Number of tilers.")
    ] = 1,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the gateway; 0: any free port.")
    ] = 0,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="DIR|s3://BUCKET",
            help="Another place to take slides from, besides the watched folder and HOME. Can be repeated.",
        ),
    ] = None,
    retention: Annotated[
        str,
        typer.Option(
            "--retention",
            metavar="DAYS|KIND=DAYS,…",
            help="Prune what is older once a day; see histgen prune. Default: keep everything.",
        ),
    ] = "",
    frozen_after: Annotated[
        float,
        typer.Option(
            "--frozen-after",
            metavar="SECONDS",
            help="Replace a process after so long without a sign of life, at least 10; 0: never.",
        ),
    ] = _FROZEN_S,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole stream on this machine: gateway, tilers, reporter, and the servers they need.

    Slides that are put into the watched folder, or submitted, become drafts in the store. Shows what is in
    progress. Ctrl-C stops everything; running jobs are finished or handed back. With --json, prints one
    document that says how to reach the stack, once it is ready.

    For example:

      histgen up

      histgen up --watch /scans --allow /archive --allow s3://scans --tilers 2

      histgen up --broker kafka --store s3://lab/histgen --store-endpoint http://minio:9000
    """
    from histgen_lib.client.home import default_home
    from histgen_lib.stack.settings import StackSettings

    kafka_libs, triton_home = server_places()
    settings = StackSettings(
        home=(home or default_home(os.environ)).absolute(),
        model=model_folder(model),
        watch=watch,
        broker=broker,
        store=store,
        store_endpoint=store_endpoint,
        inference=inference,
        tilers=tilers,
        port=port,
        roots=tuple(map(_whole, allow or [])),
        retention=retention,
        kafka_libs=kafka_libs,
        triton_home=triton_home,
        frozen_s=_frozen_s(frozen_after),
    )
    _run(settings, as_json=as_json)


def _whole(place: str) -> str:
    """Make a relative folder absolute: the services run in another folder."""
    return place if not place or "://" in place or place.startswith("file:") else str(Path(place).resolve())


def _frozen_s(seconds: float) -> float:
    """Refuse a limit that a merely busy machine would exceed. Raises typer.BadParameter."""
    if 0 < seconds < _LEAST_FROZEN_S or not 0 <= seconds <= _MOST_FROZEN_S:
        raise typer.BadParameter("must be 0, or 10 seconds to a day", param_hint="--frozen-after")
    return seconds


def _run(settings: StackSettings, *, as_json: bool) -> None:
    from histgen_lib.runtime.stopping import STOP_SIGNALS, Stop, Stopped, stopped_by_signals
    from histgen_lib.secret import OWNER_ONLY
    from histgen_lib.stack.local import LocalStack
    from histgen_lib.stack.monitoring import Notifier

    os.umask(OWNER_ONLY)
    systemd = Notifier(os.environ)
    console = err() if as_json else out()
    closed = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)  # nohup ignores it
    with stopped_by_signals(Stop(), (*STOP_SIGNALS, *closed)) as stop, systemd.beating():
        # The machine must not delay its own start for what a stack may wait for: a disk, a share, a server.
        systemd.notify("READY=1", "STATUS=Starting")
        try:
            with LocalStack(settings, on_notice=notice_printer(console, systemd.notify), stop=stop) as stack:
                with suppress(Stopped):
                    with console.status("Starting …"):
                        _await(stack, console)
                    systemd.notify(f"STATUS=Ready at {stack.url}")
                    if as_json:
                        emit_json(stack.record.to_json())
                        _flush(stop)
                    _follow(stack, console, stop)
                systemd.notify("STOPPING=1")
                _print(console, _STOPPING)
        except Stopped:  # before it was up
            _print(console, "Stopped.")
            raise typer.Exit(stop.exit_code) from None
    _print(console, "Stopped.")


def _print(console: Console, text: str, style: str = "") -> None:
    """Print a line; an output that cannot be written, say to a full disk, is no reason to end."""
    with suppress(OSError):
        console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def _flush(stop: Stop) -> None:
    """Flush stdout, and retry while its disk is full."""
    while not stop.requested:
        try:
            sys.stdout.flush()
            break
        except OSError as error:
            if not was_full(error):
                raise
            stop.wait(_PAUSE_S)


def notice_printer(
    console: Console, systemd: Callable[[str], None] = lambda _: None
) -> Callable[[Notice], None]:
    """Return what prints one line for each process that ended or keeps failing, as it happens."""
    troubled: dict[str, float] = {}

    def on_notice(notice: Notice) -> None:
        name = notice.name
        if notice.trouble and troubled.get(name) == notice.reported_at:
            return
        if notice.trouble:
            since = f" for {duration(notice.since_s)}" if name in troubled else ""
            troubled[name] = notice.reported_at
            show(f"{name} keeps failing{since}: {notice.trouble} It is retried until it works.")
        elif name in troubled:
            del troubled[name]
            show(f"{name} has recovered.", style="green")
        elif notice.state == "restarting":
            show(f"{name} is being restarted: {notice.last}")

    def show(line: str, style: str = "yellow") -> None:
        systemd(f"STATUS={line}")
        _print(console, line, style)

    return on_notice


def _await(stack: LocalStack, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until the stack is ready, and say now and then what it is waiting for."""
    began = clock()
    while True:
        try:
            return stack.wait_ready(_WAIT_S)
        except TransientError as late:
            waited = duration(clock() - began)
            _print(console, f"Waiting for {waited}: {late.message} {late.hint}", "yellow")


def headings(stack: LocalStack) -> list[str]:
    """Return lines that say how to reach the stack and what it is made of."""
    record = stack.record
    assert stack.inference is not None
    return [
        f"Gateway  {record.gateway}, token in {stack.home.token_path}",
        f"Slides   put them into {record.watch}, or histgen submit SLIDE",
        f"Allowed  {', '.join(record.roots)}",
        f"Store    {record.store}",
        f"Broker   {record.bus}",
        f"Models   {stack.inference.note}",
    ]


def _follow(stack: LocalStack, console: Console, stop: Stop) -> None:
    """Show what happens until the stop. Raises the error of a part that is not restarted any more."""
    from rich.live import Live

    from histgen_lib.cli.stream.view import LiveView, print_ended
    from histgen_lib.client.connection import Target, connect
    from histgen_lib.client.following import Follower, open_poller

    lines = headings(stack)
    if not console.is_terminal:
        _print(console, "\n".join(lines))

    def make_follower() -> Follower:
        poller = open_poller(connect(Target(home=stack.home.folder), os.environ), stop.wait)
        return Follower(poller, stack.home.run_dir)

    follower = _retried(make_follower, stop)
    if not console.is_terminal:
        while not stop.requested:
            stack.check()
            for ended in _retried(follower.poll, stop).news:
                with suppress(OSError):
                    print_ended(console, ended)
            stop.wait(follower.pause_s)
        return
    view = LiveView([*lines, "", "Press Ctrl-C to stop it."])
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not stop.requested:
            stack.check()
            others = [(part.name, part.state) for part in stack.servers()]
            with suppress(OSError):
                live.update(view.render(_retried(follower.poll, stop), others), refresh=True)
            stop.wait(follower.pause_s)


def _retried(poll: Callable[[], T], stop: Stop) -> T:
    """Poll until it succeeds: no error of a poll may end the stack. Raises Stopped."""
    while True:
        try:
            return poll()
        except Exception as error:
            _log.warning("The state of the stack could not be read: %s.", type(error).__name__)
            stop.check()
            stop.wait(_PAUSE_S)


def duration(seconds: float) -> str:
    """Write a duration for people."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

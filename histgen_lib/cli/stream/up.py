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
"""How often it is said what a start waits for."""
_PAUSE_S = 5.0
_STOPPING = "Stopping: what is in hand is finished or handed back. Ctrl-C again ends it at once."


def up(
    *,
    home: Home = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch", metavar="DIR", help="Folder that new slides are put into. Default: HOME/inbox."
        ),
    ] = None,
    broker: Annotated[
        str,
        typer.Option(
            "--broker", help="embedded (one file), kafka (a real one is started), or kafka://host:port."
        ),
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
            help="auto, onnx (in each worker), triton (one is started), or triton://host:port. "
            "auto: triton where deploy/setup.sh triton has installed it.",
        ),
    ] = "auto",
    model: Model = None,
    tilers: Annotated[int, typer.Option("--tilers", min=1, max=64, metavar="N", help="How many tilers.")] = 1,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the gateway; 0: any that is free.")
    ] = 0,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="DIR|s3://BUCKET",
            help="Where slides may lie beside the watched folder and HOME; may be repeated.",
        ),
    ] = None,
    retention: Annotated[
        str,
        typer.Option(
            "--retention",
            metavar="DAYS|KIND=DAYS,…",
            help="Have what is older pruned once a day, see histgen prune. Default: everything is kept.",
        ),
    ] = "",
    frozen_after: Annotated[
        float,
        typer.Option(
            "--frozen-after",
            metavar="SECONDS",
            help="After so long without a sign of life a process is replaced, 10 at least; 0: never.",
        ),
    ] = _FROZEN_S,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole stream on this machine: gateway, tilers, reporter, and the servers they need.

    Slides that are put into the watched folder, or submitted, become drafts in the store. Shows what is in
    flight; Ctrl-C stops everything, and what is in hand is finished or handed back. With --json one document
    says how to reach the stack once it is ready.

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
    """Write out a folder that is stated as seen from here: services look from elsewhere."""
    return place if not place or "://" in place or place.startswith("file:") else str(Path(place).resolve())


def _frozen_s(stated: float) -> float:
    """Refuse what a machine that is merely busy would need. Raises typer.BadParameter."""
    if 0 < stated < _LEAST_FROZEN_S or not 0 <= stated <= _MOST_FROZEN_S:
        raise typer.BadParameter("wants 0, or 10 seconds to a day", param_hint="--frozen-after")
    return stated


def _run(settings: StackSettings, *, as_json: bool) -> None:
    from histgen_lib.runtime.stopping import STOP_SIGNALS, Stop, Stopped, stopped_by_signals
    from histgen_lib.secret import OWNER_ONLY
    from histgen_lib.stack.local import LocalStack
    from histgen_lib.stack.monitoring import Notifier

    os.umask(OWNER_ONLY)
    systemd = Notifier(os.environ)
    console = err() if as_json else out()
    closed = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)  # as nohup has it
    with stopped_by_signals(Stop(), (*STOP_SIGNALS, *closed)) as stop, systemd.beating():
        # A machine that starts up shall not wait for what a stack may wait for: a disk, a share, a server.
        systemd.say("READY=1", "STATUS=Starting")
        try:
            with LocalStack(settings, told=notice_printer(console, systemd.say), stop=stop) as stack:
                with suppress(Stopped):
                    with console.status("Starting …"):
                        _await(stack, console)
                    systemd.say(f"STATUS=Ready at {stack.url}")
                    if as_json:
                        emit_json(stack.record.to_json())
                        _flush(stop)
                    _follow(stack, console, stop)
                systemd.say("STOPPING=1")
                _tell(console, _STOPPING)
        except Stopped:  # before it was up
            _tell(console, "Stopped.")
            raise typer.Exit(stop.exit_code) from None
    _tell(console, "Stopped.")


def _tell(console: Console, text: str, style: str = "") -> None:
    """Print a line; whatever it is printed to, a file on a full disk, say, is no reason to end."""
    with suppress(OSError):
        console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def _flush(stop: Stop) -> None:
    """Have what was printed to stdout reach it, for as long as that takes on a full disk."""
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
    """Return what tells, in one line each, of processes that ended and of what keeps failing, as it comes."""
    troubled: dict[str, float] = {}

    def tell(news: Notice) -> None:
        if news.trouble and troubled.get(news.name) == news.said_at:
            return
        if news.trouble:
            since = f" for {duration(news.since_s)}" if news.name in troubled else ""
            troubled[news.name] = news.said_at
            say(f"{news.name} keeps failing{since}: {news.trouble} It is tried for as long as it takes.")
        elif news.name in troubled:
            del troubled[news.name]
            say(f"{news.name} is well again.", style="green")
        elif news.state == "restarting":
            say(f"{news.name} is started again: {news.last}")

    def say(line: str, style: str = "yellow") -> None:
        systemd(f"STATUS={line}")
        _tell(console, line, style)

    return tell


def _await(stack: LocalStack, console: Console) -> None:
    """Wait for as long as it takes until the stack is ready; say now and then what it waits for."""
    began = time.monotonic()
    while True:
        try:
            return stack.wait_ready(_WAIT_S)
        except TransientError as late:
            waited = duration(time.monotonic() - began)
            _tell(console, f"Waiting for {waited}: {late.message} {late.hint}", "yellow")


def headings(stack: LocalStack) -> list[str]:
    """Say how the stack is reached and what it is made of."""
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
    """Show what happens until it is to stop. Raises the error of a part that was given up."""
    from rich.live import Live

    from histgen_lib.cli.stream.view import LiveView, say_ended
    from histgen_lib.client.connection import Target, connect
    from histgen_lib.client.following import Follower, open_poller

    lines = headings(stack)
    if not console.is_terminal:
        _tell(console, "\n".join(lines))

    def seen() -> Follower:
        sight = open_poller(connect(Target(home=stack.home.folder), os.environ), stop.wait)
        return Follower(sight, stack.home.run_dir)

    follower = _insisted(seen, stop)
    if not console.is_terminal:
        while not stop.requested:
            stack.check()
            for ended in _insisted(follower.look, stop).news:
                with suppress(OSError):
                    say_ended(console, ended)
            stop.wait(follower.pause_s)
        return
    view = LiveView([*lines, "", "Ctrl-C stops it."])
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not stop.requested:
            stack.check()
            others = [(part.name, part.state) for part in stack.servers()]
            with suppress(OSError):
                live.update(view.draw(_insisted(follower.look, stop), others), refresh=True)
            stop.wait(follower.pause_s)


def _insisted(look: Callable[[], T], stop: Stop) -> T:
    """Look, for as often as it takes: nothing that a look may meet is a reason to end a stack."""
    while True:
        try:
            return look()
        except Exception as error:
            _log.warning("It could not be looked how the stack is: %s.", type(error).__name__)
            stop.check()
            stop.wait(_PAUSE_S)


def duration(seconds: float) -> str:
    """Say in words how long something has lasted."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

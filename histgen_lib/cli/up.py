"""`histgen up`: the whole stream on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream_options import Home, StoreEndpoint, server_places
from histgen_lib.errors import TransientError

if TYPE_CHECKING:
    from rich.console import Console

    from histgen_lib.stack.local import LocalStack
    from histgen_lib.stack.settings import StackSettings
    from histgen_lib.worker import Stop

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
            help="Where slides may lie; may be repeated. Default: wherever this account can read.",
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
    as_json: JsonFlag = False,
) -> None:
    """Run the whole stream on this machine: gateway, tilers, reporter, and the servers they need.

    Slides that are put into the watched folder, or submitted, become drafts in the store. Shows what is in
    flight; Ctrl-C stops everything, and what is in hand is finished or handed back. With --json one document
    says how to reach the stack once it is ready.

    For example:

      histgen up

      histgen up --watch /scans --tilers 2

      histgen up --broker kafka --store s3://lab/histgen --store-endpoint http://minio:9000
    """
    from histgen_lib.stack.home import default_home  # noqa: PLC0415 - only when a stack is started
    from histgen_lib.stack.settings import StackSettings  # noqa: PLC0415

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
        roots=tuple(allow or ["/"]),
        retention=retention,
        kafka_libs=kafka_libs,
        triton_home=triton_home,
    )
    _run(settings, as_json=as_json)


def _run(settings: StackSettings, *, as_json: bool) -> None:
    from histgen_lib.stack.children import OWNER_ONLY  # noqa: PLC0415
    from histgen_lib.stack.local import LocalStack  # noqa: PLC0415
    from histgen_lib.worker.stopping import STOP_SIGNALS, Stop, Stopped, stopped_by_signals  # noqa: PLC0415

    os.umask(OWNER_ONLY)
    console = err() if as_json else out()
    closed = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)  # as nohup has it
    with stopped_by_signals(Stop(), (*STOP_SIGNALS, *closed)) as stop:
        try:
            with LocalStack(settings, changed=teller(console), stop=stop) as stack:
                with suppress(Stopped):
                    with console.status("Starting …"):
                        _await(stack, console)
                    if as_json:
                        emit_json(stack.record.to_json())
                        sys.stdout.flush()
                    _follow(stack, console, stop)
                console.print(_STOPPING, soft_wrap=True)
        except Stopped:  # before it was up
            console.print("Stopped.")
            raise typer.Exit(stop.exit_code) from None
    console.print("Stopped.")


def teller(console: Console) -> Callable[[str, str, str], None]:
    """Return what tells of processes that have to be started again; of one that keeps failing, only once."""
    troubled: set[str] = set()

    def tell(name: str, state: str, trouble: str) -> None:
        if trouble and name not in troubled:
            troubled.add(name)
            console.print(f"{name} keeps failing: {trouble}", style="yellow", soft_wrap=True, markup=False)
            console.print("It is started again for as long as it takes; nothing is lost.", style="yellow")
        elif not trouble and name in troubled:
            troubled.remove(name)
            console.print(f"{name} is well again.", style="green")
        elif state == "restarting" and not trouble:
            console.print(f"{name} ended; it is started again.", style="yellow")

    return tell


def _await(stack: LocalStack, console: Console) -> None:
    """Wait for as long as it takes until the stack is ready; say now and then what it waits for."""
    said = ""
    while True:
        try:
            return stack.wait_ready()
        except TransientError as late:
            if late.message != said:
                said = late.message
                console.print(f"{said} {late.hint}", style="yellow", soft_wrap=True, markup=False)


def headings(stack: LocalStack) -> list[str]:
    """Say how the stack is reached and what it is made of."""
    record = stack.record
    assert stack.inference is not None
    return [
        f"Gateway  {record.gateway}, token in {stack.home.token_path}",
        f"Slides   put them into {record.watch}, or histgen submit SLIDE",
        f"Store    {record.store}",
        f"Broker   {record.bus}",
        f"Models   {stack.inference.note}",
    ]


def _follow(stack: LocalStack, console: Console, stop: Stop) -> None:
    """Show what happens until it is to stop. Raises the error of a part that was given up."""
    from rich.live import Live  # noqa: PLC0415 - only where it is drawn

    from histgen_lib.cli.stream_view import LiveView, say_ended  # noqa: PLC0415
    from histgen_lib.stack.connection import Stated, connect  # noqa: PLC0415
    from histgen_lib.stack.following import Follower  # noqa: PLC0415
    from histgen_lib.stack.sight import sight_of  # noqa: PLC0415

    lines = headings(stack)
    if not console.is_terminal:
        console.print("\n".join(lines), soft_wrap=True)
    sight = sight_of(connect(Stated(home=stack.home.folder), os.environ), stop.wait)
    follower = Follower(sight, stack.home.run_dir)
    if not console.is_terminal:
        while not stop.requested:
            stack.check()
            for ended in follower.look().news:
                say_ended(console, ended)
            stop.wait(follower.pause_s)
        return
    view = LiveView([*lines, "", "Ctrl-C stops it."])
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not stop.requested:
            stack.check()
            others = [(part.name, part.state) for part in stack.servers()]
            live.update(view.draw(follower.look(), others), refresh=True)
            stop.wait(follower.pause_s)

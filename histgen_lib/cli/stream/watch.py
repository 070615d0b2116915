"""`histgen watch`: a live view of what is in progress, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.cli.stream.options import Home, Store, StoreEndpoint, reach

if TYPE_CHECKING:
    from histgen_lib.client.connection import Connection
    from histgen_lib.client.following import Follower

_POLL_S = 0.5


def watch(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what is in progress, how slides end, and the state of the services. Ctrl-C ends only this view.

    For a remote stack, only slides are shown, not services. --json prints the current state once.

    For example:

      histgen watch

      histgen watch --once --json
    """
    from histgen_lib.client.following import Follower, open_poller

    connection = reach(home, store=store, store_endpoint=store_endpoint)
    follower = Follower(open_poller(connection), connection.run_dir)
    if as_json:
        from histgen_lib.cli.stream.view import snapshot_json

        emit_json(snapshot_json(follower.poll(), connection.store()))
    elif once:
        _once(follower, connection)
    else:
        _follow(follower, connection)


def _once(follower: Follower, connection: Connection) -> None:
    from histgen_lib.cli.stream.view import LiveView

    out().print(LiveView(_headings(connection)).render(follower.poll()))


def _follow(follower: Follower, connection: Connection) -> None:
    from rich.live import Live

    from histgen_lib.cli.stream.view import LiveView, print_ended
    from histgen_lib.runtime.stopping import Stop, stopped_by_signals

    view, console = LiveView(_headings(connection)), out()
    with stopped_by_signals(Stop()) as stop:
        if not console.is_terminal:
            while not stop.requested:
                for ended in follower.poll().news:
                    print_ended(console, ended)
                stop.wait(_POLL_S)
            return
        with Live(console=console, auto_refresh=False) as live:
            while not stop.requested:
                live.update(view.render(follower.poll()), refresh=True)
                stop.wait(_POLL_S)


def _headings(connection: Connection) -> list[str]:
    if connection.home is None:
        return [f"Store    {connection.storage.url}"]
    if connection.run_dir is None:
        return [f"No stack runs in {connection.home.folder} now; this is its last state."]
    return [f"Gateway  {connection.gateway}", f"Home     {connection.home.folder}"]

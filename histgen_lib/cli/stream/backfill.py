"""`histgen backfill`: slides that were there before the stack, at a pace the lab can stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.access.finding import LeftOut, counted
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error, say_heading
from histgen_lib.cli.stream.options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.stream.submit import SOME_FAILED, exit_code

if TYPE_CHECKING:
    from histgen_lib.client.connection import Connection
    from services.gateway.backfill import Outcome, Step

_MOST_NAMED = 10
_SAID = {
    "accepted": "taken",
    "rescan": "taken as new scans",
    "duplicate": "known before",
    "dead-letter": "given up",
    "refused": "refused",
    "would-submit": "would be taken",
}


def backfill(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A folder, or s3://bucket/prefix.")],
    *,
    rate: Annotated[
        str,
        typer.Option(
            "--rate", metavar="N/TIME", help="Most new slides in a time: 30/min, 2/s, 500/h, 5000/day."
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Name all that is left out, not only the first ten.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Hand every slide below PREFIX to the stack. Goes on where it was stopped: known slides cost no time.

    What lies there and is no slide is left out, counted and named.

    For example:

      histgen backfill /archive/2024 --rate 30/min

      histgen backfill s3://scans/2024 --dry-run --json
    """
    from histgen_lib.runtime.stopping import Stop, stopped_by_signals
    from services.gateway.backfill import run_backfill
    from services.gateway.settings import GatewaySettings

    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    settings = GatewaySettings.load(
        bus=connection.need_bus().url,
        kafka=dict(connection.need_bus().kafka),
        kafka_file=None,  # what one says is in these already
        store=connection.storage.url,
        store_endpoint=connection.storage.endpoint,
        **({"roots": connection.roots} if connection.roots else {}),
    )
    notice_printer = _Teller(connection, as_json=as_json)
    with stopped_by_signals(Stop()) as stop:
        tally = run_backfill(
            settings, prefix, rate=rate, dry_run=dry_run, progress=notice_printer.tell, stop=stop
        )
    if as_json:
        emit_json(
            {
                "outcomes": dict(tally.outcomes),
                "stopped": tally.stopped,
                "slides": notice_printer.told,
                "left_out": [{"name": one.name, "why": one.why} for one in notice_printer.left_out],
            }
        )
    else:
        out().print(_summary(tally.outcomes, stopped=tally.stopped))
        _say_left_out(notice_printer.left_out, most=None if verbose else _MOST_NAMED)
    if tally.stopped:
        raise typer.Exit(stop.exit_code)
    if tally.left_out["closed"] and not notice_printer.failures:
        raise typer.Exit(SOME_FAILED)
    raise typer.Exit(exit_code(notice_printer.failures, total=sum(tally.outcomes.values())))


class _Teller:
    """Tells of each slide as it is dealt with, and the index of those that are new."""

    def __init__(self, connection: Connection, *, as_json: bool) -> None:
        self._connection, self._as_json = connection, as_json
        self.told: list[dict[str, Any]] = []
        self.failures: list[Failure] = []
        self.left_out: list[LeftOut] = []

    def tell(self, step: Step | LeftOut) -> None:
        """Note what became of a slide, or what is left out."""
        if isinstance(step, LeftOut):
            self.left_out.append(step)
            return
        uri, letter = step.name, step.receipt and step.receipt.letter
        failure = Failure.of(step.error) if step.error else None
        if letter:
            failure = Failure(letter.code, letter.message, letter.hint, 65)
        if step.outcome == "waiting":
            err().print(f"Waiting: {step.error}", style="yellow", soft_wrap=True)
            return
        if step.receipt and step.outcome != "duplicate":
            self._connection.tell_index([step.receipt.slide_id])
        self.told.append({"uri": uri, "outcome": step.outcome, "error": failure and failure.to_dict()})
        if failure:
            self.failures.append(failure)
            say_heading(uri)
            say_error(failure)
        elif not self._as_json and step.outcome != "duplicate":
            out().print(f"{uri}: {_SAID[step.outcome]}", soft_wrap=True)


def _summary(outcomes: Mapping[Outcome, int], *, stopped: bool) -> str:
    counts = [f"{count} {_SAID[outcome]}" for outcome, count in sorted(outcomes.items())]
    text = ", ".join(counts) or "There are no slides"
    return f"{text}{'; stopped before the end' if stopped else ''}."


def _say_left_out(left_out: Sequence[LeftOut], *, most: int | None) -> None:
    if not left_out:
        return
    out().print(f"{len(left_out)} left out: {counted(Counter(one.why for one in left_out))}.", soft_wrap=True)
    for one in left_out[:most]:
        out().print(f"  {one.name}", style="dim", soft_wrap=True)
    if more := len(left_out) - len(left_out[:most]):
        out().print(f"  … and {more} more; --verbose names them all.", style="dim", soft_wrap=True)

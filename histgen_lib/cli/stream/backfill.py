"""`histgen backfill`: submit the slides that were there before the stack, at a rate the lab can stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.access.finding import LeftOut, counted
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error, say_heading
from histgen_lib.cli.stream.options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.stream.submit import SOME_FAILED, exit_code
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.client.connection import Connection
    from services.gateway.backfill import Outcome, Step

_MOST_NAMED = 10
_OUTCOMES: Mapping[Outcome, str] = {
    "accepted": "accepted",
    "rescan": "accepted as new scans",
    "duplicate": "already known",
    "dead-letter": "given up",
    "refused": "refused",
    "would-submit": "would be submitted",
}


def backfill(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A folder, or s3://bucket/prefix.")],
    *,
    rate: Annotated[
        str,
        typer.Option(
            "--rate",
            metavar="N/TIME",
            help="Submit new slides at most this fast: 30/min, 2/s, 500/h, 5000/day.",
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be submitted.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List all files that are left out, not only ten.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Submit every slide below PREFIX to the stack. It skips known slides, so it can be stopped and resumed.

    Other files are left out, counted and listed.

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
        kafka_file=None,  # its settings are in `kafka` already
        store=connection.storage.url,
        store_endpoint=connection.storage.endpoint,
        **({"roots": connection.roots} if connection.roots else {}),
    )
    record = _Record(connection, as_json=as_json)
    with stopped_by_signals(Stop()) as stop:
        tally = run_backfill(settings, prefix, rate=rate, dry_run=dry_run, progress=record.add, stop=stop)
    if as_json:
        emit_json(
            {
                "outcomes": dict(tally.outcomes),
                "stopped": tally.stopped,
                "slides": record.slides,
                "left_out": [{"name": one.name, "why": one.why} for one in record.left_out],
            }
        )
    else:
        out().print(_summary(tally.outcomes, stopped=tally.stopped))
        _print_left_out(record.left_out, most=None if verbose else _MOST_NAMED)
    if tally.stopped:
        raise typer.Exit(stop.exit_code)
    if tally.left_out["closed"] and not record.failures:
        raise typer.Exit(SOME_FAILED)
    raise typer.Exit(exit_code(record.failures, total=sum(tally.outcomes.values())))


class _Record:
    """Prints and records each slide's outcome, and marks new slides in the index."""

    def __init__(self, connection: Connection, *, as_json: bool) -> None:
        self._connection, self._as_json = connection, as_json
        self.slides: list[dict[str, object]] = []
        self.failures: list[Failure] = []
        self.left_out: list[LeftOut] = []

    def add(self, step: Step | LeftOut) -> None:
        """Record the outcome of a slide, or a file that is left out."""
        if isinstance(step, LeftOut):
            self.left_out.append(step)
        elif step.outcome == "waiting":
            err().print(f"Waiting: {step.error}", style="yellow", soft_wrap=True)
        else:
            self._add_slide(step)

    def _add_slide(self, step: Step) -> None:
        if step.receipt and step.outcome != "duplicate":
            self._connection.touch_index([step.receipt.slide_id])
        failure = _failure_of(step)
        error = failure and failure.to_dict()
        self.slides.append({"uri": step.name, "outcome": step.outcome, "error": error})
        if failure:
            self.failures.append(failure)
            say_heading(step.name)
            say_error(failure)
        elif not self._as_json and step.outcome != "duplicate":
            out().print(f"{step.name}: {_OUTCOMES[step.outcome]}", soft_wrap=True)


def _failure_of(step: Step) -> Failure | None:
    if step.receipt and (letter := step.receipt.letter):
        return Failure(letter.code, letter.message, letter.hint, InvalidInputError.exit_code)
    return Failure.of(step.error) if step.error else None


def _summary(outcomes: Mapping[Outcome, int], *, stopped: bool) -> str:
    counts = [f"{count} {_OUTCOMES[outcome]}" for outcome, count in sorted(outcomes.items())]
    text = ", ".join(counts) or "There are no slides"
    return f"{text}{'; stopped before the end' if stopped else ''}."


def _print_left_out(left_out: Sequence[LeftOut], *, most: int | None) -> None:
    if not left_out:
        return
    out().print(f"{len(left_out)} left out: {counted(Counter(one.why for one in left_out))}.", soft_wrap=True)
    for one in left_out[:most]:
        out().print(f"  {one.name}", style="dim", soft_wrap=True)
    if more := len(left_out) - len(left_out[:most]):
        out().print(f"  … and {more} more; --verbose lists them all.", style="dim", soft_wrap=True)

"""`histgen replay`: retry dead letters, or slides whose events were lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import Failure, JsonFlag, emit_json, out, say_error, say_heading
from histgen_lib.cli.stream.options import Bus, Gateway, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.stream.submit import exit_code
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.catalogue.replay import Replayed
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection

Row = Mapping[str, Any]
"""What became of a letter or a slide, as --json prints it."""


def replay(
    event_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LETTER]…",
            help="Dead letters to retry, by the names that histgen status SLIDE prints, or by event id.",
        ),
    ] = None,
    *,
    code: Annotated[
        str | None, typer.Option("--code", metavar="CODE", help="All dead letters with this code.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    lost: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="Retry all slides that have neither a draft nor a dead letter.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be retried.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    gateway: Gateway = None,
    as_json: JsonFlag = False,
) -> None:
    """Retry dead letters. Fix the cause that they name first, or they will come back.

    Replayed letters are kept under dead-letter-replayed/ in the store. For a slide without a credible
    resolution, use histgen submit SLIDE --mpp instead.

    --unfinished is for a broker that has lost its records. Slides that are announced again although they
    still wait there are not drafted twice.

    With --gateway, and without --store and --bus, the gateway does it; its token needs the scope "operate".

    For example:

      histgen replay --code slide-missing --dry-run

      histgen replay --code slide-missing

      histgen replay 1f0c9a3e5b7d4c2e8a6f0b1d3c5e7a90

      histgen replay --unfinished

      histgen replay --code slide-missing --gateway https://gateway:8080
    """
    if lost and (event_ids or code or every):
        raise InvalidInputError(
            "replay-contradictory",
            "--unfinished selects slides without a dead letter, and cannot be combined with other choices.",
            hint="Run two commands: one with --unfinished, one with the other choice.",
        )
    if not (event_ids or code or every or lost or dry_run):
        raise InvalidInputError(
            "replay-unstated",
            "No dead letters are selected.",
            hint="Give names of letters, --code, --all, or --unfinished; add --dry-run to only list them.",
        )
    if gateway and not (store or bus or home):
        body = _body(event_ids, code, every=every, lost=lost, dry_run=dry_run)
        rows: Iterable[Row] = _asked(gateway, body)
    else:
        connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
        if lost:
            rows = _resend(connection, dry_run=dry_run)
        else:
            run = _would_replay if dry_run else _replay
            rows = (one.to_json() for one in run(connection, code, event_ids or None))
    show = _print_slide if lost else _print_letter
    done = []
    for row in rows:
        done.append(row)
        if not as_json:
            show(row, dry_run=dry_run)
    what = "slides" if lost else "letters"
    if as_json:
        emit_json({"dry_run": dry_run, what: done})
    elif not done:
        out().print(f"There are no such {'slides' if lost else 'dead letters'}.")
    failures = [_failure_of(row["error"]) for row in done if row.get("error")]
    raise typer.Exit(exit_code(failures, len(done)))


def _body(
    event_ids: Sequence[str] | None, code: str | None, *, every: bool, lost: bool, dry_run: bool
) -> dict[str, object]:
    """Make the body of POST /replay."""
    body = {"letters": event_ids, "code": code, "all": every, "unfinished": lost, "dry_run": dry_run}
    return {name: value for name, value in body.items() if value}


def _asked(gateway: str, body: Mapping[str, object]) -> Sequence[Row]:
    """Have the gateway replay, and return what it did. Raises as `RemoteGateway.post`."""
    from histgen_lib.client.connection import remote_gateway

    answer = remote_gateway(gateway, os.environ).post("/replay", body)
    rows: Sequence[Row] = answer["slides" if body.get("unfinished") else "letters"]
    return rows


def _resend(connection: Connection, *, dry_run: bool) -> Iterator[Row]:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.replay import resend, resent_json, unfinished

    with ExitStack() as resources:
        if dry_run:
            slides: Iterable[SlideState] = unfinished(connection.store())
        else:
            publisher = resources.enter_context(closing(open_publisher(connection.need_bus())))
            slides = resend(connection.store(), publisher)
        yield from map(resent_json, slides)


def _replay(connection: Connection, code: str | None, event_ids: Sequence[str] | None) -> Iterable[Replayed]:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.replay import replay as run

    touched: set[str] = set()
    with closing(open_publisher(connection.need_bus())) as publisher:
        try:
            for replayed in run(connection.store(), publisher, code=code, event_ids=event_ids):
                letter = replayed.letter
                if letter and not replayed.refused:
                    touched.add(letter.event.key if letter.event else letter.key)
                yield replayed
        finally:
            connection.touch_index(touched)


def _would_replay(
    connection: Connection, code: str | None, event_ids: Sequence[str] | None
) -> Iterable[Replayed]:
    from histgen_lib.catalogue.replay import choose

    return choose(connection.store(), code=code, event_ids=event_ids)


def _print_slide(row: Row, *, dry_run: bool) -> None:
    verb = "would be" if dry_run else "is"
    out().print(f"{row['slide_id']}: {verb} announced again", soft_wrap=True)


def _print_letter(row: Row, *, dry_run: bool) -> None:
    slide = row["slide_id"] or "unknown"
    if row["error"]:
        say_heading(f"{row['event_id']} ({slide})")
        say_error(_failure_of(row["error"]))
        return
    if row["put_away"]:
        outcome = "was announced again since; the letter " + ("would be" if dry_run else "is") + " put away"
    else:
        outcome = "would be retried" if dry_run else "is being retried"
    out().print(f"{slide}: {row['code']} {outcome} ({row['event_id']})", soft_wrap=True)


def _failure_of(error: Mapping[str, str]) -> Failure:
    """Return why one letter could not be replayed: always the letter itself, never the system."""
    return Failure(**error, exit_code=InvalidInputError.exit_code)

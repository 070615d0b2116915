"""`histgen replay`: have dead letters, or slides whose events were lost, tried again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import Failure, JsonFlag, emit_json, out, say_error, say_heading
from histgen_lib.cli.stream_options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.submit import exit_code
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.catalogue.replay import Replayed
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection


def replay(
    event_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LETTER]…",
            help="Dead letters to replay, as histgen status SLIDE names them, or by their event's id.",
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
            help="No dead letters, but all slides that have neither a draft nor a dead letter.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which would be replayed.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    as_json: JsonFlag = False,
) -> None:
    """Have dead letters tried again. Mend first what they name: they come back otherwise.

    A letter that was replayed is kept under dead-letter-replayed/ in the store. A slide without a believable
    resolution does not need this: histgen submit SLIDE --mpp.

    --unfinished is for a broker that has lost what it held: slides that are announced again though they still
    wait there are not drafted twice.

    For example:

      histgen replay --code slide-missing --dry-run

      histgen replay --code slide-missing

      histgen replay 1f0c9a3e5b7d4c2e8a6f0b1d3c5e7a90

      histgen replay --unfinished
    """
    if lost and (event_ids or code or every):
        raise InvalidInputError(
            "replay-contradictory",
            "--unfinished is about slides without a dead letter; the other choice is about dead letters.",
            hint="Give --unfinished alone, then the other choice in a second command.",
        )
    if not (event_ids or code or every or lost or dry_run):
        raise InvalidInputError(
            "replay-unstated",
            "It is not said which dead letters are to be replayed.",
            hint="Give --code, event ids, --all, or --unfinished; --dry-run only says which they are.",
        )
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    if lost:
        _resend(connection, dry_run=dry_run, as_json=as_json)
        return
    run = _would_replay if dry_run else _replay
    told = []
    for replayed in run(connection, code, event_ids or None):
        told.append(replayed)
        if not as_json:
            _say(replayed, dry_run=dry_run)
    failures = [Failure.of(one.refused) for one in told if one.refused]
    if as_json:
        emit_json({"dry_run": dry_run, "letters": [_to_dict(one) for one in told]})
    elif not told:
        out().print("There are no such dead letters.")
    raise typer.Exit(exit_code(failures, len(told)))


def _resend(connection: Connection, *, dry_run: bool, as_json: bool) -> None:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.replay import resend, unfinished

    told = []
    with ExitStack() as held:
        if dry_run:
            slides: Iterable[SlideState] = unfinished(connection.store())
        else:
            publisher = held.enter_context(closing(open_publisher(connection.need_bus())))
            slides = resend(connection.store(), publisher)
        for slide in slides:
            told.append(slide)
            if not as_json:
                said = "would be announced again" if dry_run else "is announced again"
                out().print(f"{slide.slide_id}: {said}", soft_wrap=True)
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "slides": [
                    {"slide_id": one.slide_id, "event_id": one.event and one.event.name} for one in told
                ],
            }
        )
    elif not told:
        out().print("There are no such slides.")


def _replay(connection: Connection, code: str | None, event_ids: Sequence[str] | None) -> Iterable[Replayed]:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.replay import replay as run

    told = set()
    with closing(open_publisher(connection.need_bus())) as publisher:
        try:
            for replayed in run(connection.store(), publisher, code=code, event_ids=event_ids):
                if replayed.letter and not replayed.refused:
                    told.add(replayed.letter.event.key if replayed.letter.event else replayed.letter.key)
                yield replayed
        finally:
            connection.tell_index(told)


def _would_replay(
    connection: Connection, code: str | None, event_ids: Sequence[str] | None
) -> Iterable[Replayed]:
    from histgen_lib.catalogue.replay import choose

    return choose(connection.store(), code=code, event_ids=event_ids)


def _say(replayed: Replayed, *, dry_run: bool) -> None:
    letter = replayed.letter
    slide = letter.event.key if letter and letter.event else "unknown"
    if replayed.refused:
        say_heading(f"{replayed.event_id} ({slide})")
        say_error(Failure.of(replayed.refused))
        return
    if replayed.put_away:
        done = "was announced since; the letter " + ("would be" if dry_run else "is") + " put away"
    else:
        done = "would be replayed" if dry_run else "is tried again"
    out().print(f"{slide}: {letter.code if letter else ''} {done} ({replayed.event_id})", soft_wrap=True)


def _to_dict(replayed: Replayed) -> dict[str, Any]:
    letter = replayed.letter
    return {
        "event_id": replayed.event_id,
        "slide_id": letter.event.key if letter and letter.event else None,
        "code": letter and letter.code,
        "new_event_id": replayed.event and replayed.event.name,
        "error": Failure.of(replayed.refused).to_dict() if replayed.refused else None,
    }

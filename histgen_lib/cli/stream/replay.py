"""`histgen replay`: retry dead letters, or slides whose events were lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import Failure, JsonFlag, emit_json, out, say_error, say_heading
from histgen_lib.cli.stream.options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.stream.submit import exit_code
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
    as_json: JsonFlag = False,
) -> None:
    """Retry dead letters. Fix the cause that they name first, or they will come back.

    Replayed letters are kept under dead-letter-replayed/ in the store. For a slide without a credible
    resolution, use histgen submit SLIDE --mpp instead.

    --unfinished is for a broker that has lost its records. Slides that are announced again although they
    still wait there are not drafted twice.

    For example:

      histgen replay --code slide-missing --dry-run

      histgen replay --code slide-missing

      histgen replay 1f0c9a3e5b7d4c2e8a6f0b1d3c5e7a90

      histgen replay --unfinished
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
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    if lost:
        _resend(connection, dry_run=dry_run, as_json=as_json)
        return
    run = _would_replay if dry_run else _replay
    letters = []
    for replayed in run(connection, code, event_ids or None):
        letters.append(replayed)
        if not as_json:
            _print_replayed(replayed, dry_run=dry_run)
    failures = [Failure.of(one.refused) for one in letters if one.refused]
    if as_json:
        emit_json({"dry_run": dry_run, "letters": [_to_dict(one) for one in letters]})
    elif not letters:
        out().print("There are no such dead letters.")
    raise typer.Exit(exit_code(failures, len(letters)))


def _resend(connection: Connection, *, dry_run: bool, as_json: bool) -> None:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.replay import resend, unfinished

    resent = []
    with ExitStack() as resources:
        if dry_run:
            slides: Iterable[SlideState] = unfinished(connection.store())
        else:
            publisher = resources.enter_context(closing(open_publisher(connection.need_bus())))
            slides = resend(connection.store(), publisher)
        for slide in slides:
            resent.append(slide)
            if not as_json:
                verb = "would be" if dry_run else "is"
                out().print(f"{slide.slide_id}: {verb} announced again", soft_wrap=True)
    if as_json:
        listed = [{"slide_id": one.slide_id, "event_id": one.event and one.event.name} for one in resent]
        emit_json({"dry_run": dry_run, "slides": listed})
    elif not resent:
        out().print("There are no such slides.")


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


def _print_replayed(replayed: Replayed, *, dry_run: bool) -> None:
    letter = replayed.letter
    slide = letter.event.key if letter and letter.event else "unknown"
    if replayed.refused:
        say_heading(f"{replayed.event_id} ({slide})")
        say_error(Failure.of(replayed.refused))
        return
    if replayed.put_away:
        outcome = "was announced again since; the letter " + ("would be" if dry_run else "is") + " put away"
    else:
        outcome = "would be retried" if dry_run else "is being retried"
    code = letter.code if letter else ""
    out().print(f"{slide}: {code} {outcome} ({replayed.event_id})", soft_wrap=True)


def _to_dict(replayed: Replayed) -> dict[str, object]:
    letter = replayed.letter
    return {
        "event_id": replayed.event_id,
        "slide_id": letter.event.key if letter and letter.event else None,
        "code": letter and letter.code,
        "new_event_id": replayed.event and replayed.event.name,
        "error": Failure.of(replayed.refused).to_dict() if replayed.refused else None,
    }

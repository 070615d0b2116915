"""`histgen replay`: have dead letters tried again, after what was wrong is mended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error
from histgen_lib.cli.stream_options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.cli.submit import exit_code
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.stack.connection import Connection
    from histgen_lib.worker.replay import Replayed


def replay(
    event_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EVENT_ID]…", help="Dead letters to replay, as histgen status SLIDE names them."
        ),
    ] = None,
    *,
    code: Annotated[
        str | None, typer.Option("--code", metavar="CODE", help="All dead letters with this code.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
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

    For example:

      histgen replay --code slide-missing --dry-run

      histgen replay --code slide-missing

      histgen replay 1f0c9a3e5b7d4c2e8a6f0b1d3c5e7a90
    """
    if not (event_ids or code or every or dry_run):
        raise InvalidInputError(
            "replay-unstated",
            "It is not said which dead letters are to be replayed.",
            hint="Give --code, event ids, or --all; --dry-run only says which they are.",
        )
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
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


def _replay(connection: Connection, code: str | None, event_ids: Sequence[str] | None) -> Iterable[Replayed]:
    from histgen_lib.bus import open_publisher  # noqa: PLC0415 - only where something is replayed
    from histgen_lib.worker.replay import replay as run  # noqa: PLC0415

    publisher = open_publisher(connection.need_bus())
    try:
        yield from run(connection.store(), publisher, code=code, event_ids=event_ids)
    finally:
        publisher.close()


def _would_replay(
    connection: Connection, code: str | None, event_ids: Sequence[str] | None
) -> Iterable[Replayed]:
    from histgen_lib.stack.overview import Overview  # noqa: PLC0415 - as above
    from histgen_lib.worker.replay import Replayed, obstacle  # noqa: PLC0415

    for letter in Overview(connection.store()).letters():
        if letter.code == (code or letter.code) and (event_ids is None or letter.event_id in event_ids):
            yield Replayed(letter.event_id, letter, refused=obstacle(letter))


def _say(replayed: Replayed, *, dry_run: bool) -> None:
    letter = replayed.letter
    slide = letter.event.key if letter and letter.event else "unknown"
    if replayed.refused:
        err().print(f"{replayed.event_id} ({slide}):", style="bold", soft_wrap=True)
        say_error(Failure.of(replayed.refused))
        return
    done = "would be replayed" if dry_run else "is tried again"
    out().print(f"{slide}: {letter.code if letter else ''} {done} ({replayed.event_id})", soft_wrap=True)


def _to_dict(replayed: Replayed) -> dict[str, Any]:
    letter = replayed.letter
    return {
        "event_id": replayed.event_id,
        "slide_id": letter.event.key if letter and letter.event else None,
        "code": letter and letter.code,
        "new_event_id": replayed.event and replayed.event.id,
        "error": Failure.of(replayed.refused).to_dict() if replayed.refused else None,
    }

"""`histgen prune`: remove what nobody needs any more."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream.options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.client.connection import Connection

DAYS = 90.0
_WHAT = {
    "broker": "records that the embedded broker has handed to everyone",
    "seen": "notes that spare a second look at files",
    "letters": "dead letters that were replayed, of slides that are drafted",
    "reports": "reports that are not the latest of their slide",
    "bags": "features of earlier scans and models",
    "attempts": "counts of attempts at what has ended",
}


def prune(
    *,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="DAYS|KIND=DAYS,…",
            help="How old things have to be; of some kinds only: seen=30,reports=365.",
        ),
    ] = f"{DAYS:g}",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much of what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove what nobody needs any more, beside a running stack or without one. Says first what, and asks.

    Kinds: broker, seen, letters, reports, bags, attempts. Kept for ever, whatever its age: the latest report
    of each slide and case, its bag, dead letters that were not replayed, and the books that tell a slide that
    is known from one that is new. docs/keeping.md says more. A running stack prunes by itself with histgen up
    --retention, or HISTGEN_RETENTION.

    For example:

      histgen prune --dry-run

      histgen prune --older-than seen=30,letters=30 --yes
    """
    from histgen_lib.catalogue.pruning import read_retention

    days = read_retention(older_than)
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    if not days:
        raise InvalidInputError(
            "retention-invalid",
            "It is not said how old things have to be.",
            hint="For example --older-than 90.",
        )
    found = _pruned(connection, days, dry_run=True) if dry_run or not yes else {}
    if not as_json and (dry_run or not yes):
        _say(found, "would be removed")
    if not dry_run and (yes or (found and _agreed())):
        found = _pruned(connection, days, dry_run=False)
        if not as_json:
            _say(found, "removed")
    if as_json:
        told = {kind: {"count": count, "size_bytes": size} for kind, (count, size) in found.items()}
        emit_json({"dry_run": dry_run, "days": days, "removed": told})


def _pruned(
    connection: Connection, days: Mapping[str, float], *, dry_run: bool
) -> dict[str, tuple[int, int]]:
    from histgen_lib.catalogue.pruning import prune as run
    from histgen_lib.catalogue.pruning import tally

    with err().status("Looking …" if dry_run else "Removing …"):
        return tally(run(connection.store(), connection.bus, days, dry_run=dry_run))


def _agreed() -> bool:
    """Ask the person. Raises InvalidInputError("prune-unconfirmed") where there is none to ask."""
    if not sys.stdin.isatty():
        raise InvalidInputError(
            "prune-unconfirmed",
            "Nothing is removed: nobody is there to be asked.",
            hint="Give --yes, or --dry-run to see only what would be removed.",
        )
    if not typer.confirm("Remove it?", err=True):
        err().print("Nothing is removed.")
        raise typer.Exit(0)
    return True


def _say(found: Mapping[str, tuple[int, int]], done: str) -> None:
    for kind, (count, size_bytes) in found.items():
        out().print(f"{kind:<9} {count:>9,}  {size_bytes / 2**20:>10,.1f} MiB  {_WHAT[kind]}", soft_wrap=True)
    if not found:
        out().print("There is nothing to remove.")
    else:
        total = sum(size for _, size in found.values())
        out().print(f"{total / 2**20:,.1f} MiB {done}", style="bold")

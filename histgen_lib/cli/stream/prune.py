"""`histgen prune`: remove data that is no longer needed."""

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
    "broker": "records that every consumer of the embedded broker has processed",
    "seen": "notes that save reading files twice",
    "letters": "replayed dead letters of slides that are drafted",
    "reports": "reports that are not the latest of their slide",
    "bags": "features of earlier scans and models",
    "attempts": "attempt counts of events that have ended",
}


def prune(
    *,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="DAYS|KIND=DAYS,…",
            help="Minimum age; with KIND, only of those kinds: seen=30,reports=365.",
        ),
    ] = f"{DAYS:g}",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove data that is no longer needed, whether or not the stack runs. Lists it first, and asks.

    Kinds: broker, seen, letters, reports, bags, attempts. Always kept: the latest report of each slide and
    case, its bag, dead letters that were not replayed, and the records by which known slides are recognised.
    See docs/keeping.md. A running stack prunes itself with histgen up --retention, or HISTGEN_RETENTION.

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
            "No minimum age is given.",
            hint="For example --older-than 90.",
        )
    found = _pruned(connection, days, dry_run=True) if dry_run or not yes else {}
    if not as_json and (dry_run or not yes):
        _print_found(found, "would be removed")
    if not dry_run and (yes or (found and _confirmed())):
        found = _pruned(connection, days, dry_run=False)
        if not as_json:
            _print_found(found, "removed")
    if as_json:
        removed = {kind: {"count": count, "size_bytes": size} for kind, (count, size) in found.items()}
        emit_json({"dry_run": dry_run, "days": days, "removed": removed})


def _pruned(
    connection: Connection, days: Mapping[str, float], *, dry_run: bool
) -> dict[str, tuple[int, int]]:
    from histgen_lib.catalogue.pruning import prune as run
    from histgen_lib.catalogue.pruning import tally

    with err().status("Reading the store …" if dry_run else "Removing …"):
        return tally(run(connection.store(), connection.bus, days, dry_run=dry_run))


def _confirmed() -> bool:
    """Ask for confirmation; exit without it. InvalidInputError("prune-unconfirmed") if nobody can answer."""
    if not sys.stdin.isatty():
        raise InvalidInputError(
            "prune-unconfirmed",
            "Nothing was removed: confirmation is needed, and there is no terminal to ask on.",
            hint="Give --yes, or --dry-run to only see what would be removed.",
        )
    if not typer.confirm("Remove it?", err=True):
        err().print("Nothing was removed.")
        raise typer.Exit(0)
    return True


def _print_found(found: Mapping[str, tuple[int, int]], done: str) -> None:
    for kind, (count, size_bytes) in found.items():
        out().print(f"{kind:<9} {count:>9,}  {size_bytes / 2**20:>10,.1f} MiB  {_WHAT[kind]}", soft_wrap=True)
    if not found:
        out().print("There is nothing to remove.")
    else:
        total = sum(size for _, size in found.values())
        out().print(f"{total / 2**20:,.1f} MiB {done}", style="bold")

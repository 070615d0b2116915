"""`histgen audit`: who did what to a stack's slides, and whether the log of it is whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream.options import Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.catalogue.audit import Entry, Verdict

BROKEN = 1
_FAULTS = {
    "missing": "is missing",
    "unreadable": "is not an entry, or has another number",
    "not-chained": "does not follow from the entry before it: one of the two was changed",
    "stranger": "is not part of the log",
    "not-expected": "has changed: its digest is not the expected one",
}

app = typer.Typer(help="Show the log of who did what, and check its integrity.", no_args_is_help=True)


@app.command()
def show(
    *,
    slide: Annotated[
        str | None, typer.Option("--slide", metavar="ID", help="Only actions on this slide.")
    ] = None,
    action: Annotated[
        str | None,
        typer.Option("--action", metavar="ACTION", help="Only this kind: submitted, replayed, …."),
    ] = None,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Print who submitted, replayed, pruned or repaired what, oldest first.

    For example:

      histgen audit show --slide case-7-a

      histgen audit show --action replayed --json
    """
    from histgen_lib.catalogue.audit import Entry, entries

    opened = reach(home, store=store, store_endpoint=store_endpoint).store()
    read = (Entry.from_bytes(data) for _, data in entries(opened))
    chosen = (
        entry
        for entry in read
        if entry and slide in (None, entry.what.get("slide_id")) and action in (None, entry.action)
    )
    if as_json:
        emit_json({"entries": [entry.to_json() for entry in chosen]})
        return
    for entry in chosen:
        out().print(_line(entry), soft_wrap=True)


@app.command()
def verify(
    *,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect",
            metavar="NUMBER:DIGEST",
            help="An end of the log that an earlier run printed, which must be there still. Can be repeated.",
        ),
    ] = None,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that every entry follows from the one before. The exit code is 1 if one is changed or missing.

    Keep the end that it prints where nobody who can write to the store can change it, and pass it to --expect
    next time: only that proves that the log was not truncated or rewritten from its beginning.

    For example:

      histgen audit verify

      histgen audit verify --expect 42:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    """
    from histgen_lib.catalogue.audit import verify as verify_log

    expected = dict(map(_parse_end, expect or []))
    verdict = verify_log(reach(home, store=store, store_endpoint=store_endpoint).store(), expected=expected)
    if as_json:
        faults = [{"key": key, "fault": fault} for key, fault in verdict.faults]
        emit_json({"entries": verdict.entries, "end": verdict.head, "faults": faults})
    else:
        _print_verdict(verdict)
    raise typer.Exit(BROKEN if verdict.faults else 0)


def _parse_end(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d{1,12}):([0-9a-f]{64})", text)
    if not found:
        raise InvalidInputError(
            "audit-end-unreadable",
            "The expected end of the log cannot be read.",
            hint="Give what histgen audit verify printed: a number, a colon and 64 hexadecimal digits.",
        )
    return int(found[1]), found[2]


def _line(entry: Entry) -> str:
    what = " ".join(f"{name}={value}" for name, value in sorted(entry.what.items()))
    return f"{entry.time:%Y-%m-%d %H:%M:%S}  {entry.action}  by {entry.by}  {what}"


def _print_verdict(verdict: Verdict) -> None:
    for key, fault in verdict.faults:
        err().print(f"{key} {_FAULTS[fault]}.", style="bold red", soft_wrap=True)
    intact = "NOT intact" if verdict.faults else "intact"
    entries = "entry" if verdict.entries == 1 else "entries"
    out().print(f"The log is {intact}: {verdict.entries} {entries}.", soft_wrap=True)
    if verdict.number:
        out().print(f"Its end: {verdict.head}", soft_wrap=True)

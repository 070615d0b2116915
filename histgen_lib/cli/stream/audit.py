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
_SAID = {
    "missing": "is missing",
    "unreadable": "is no entry, or that of another number",
    "not-chained": "does not follow from the entry before it: that one, or this, was changed",
    "stranger": "is no part of the log",
    "not-expected": "is not what it was: its digest is another than the one that is expected",
}

app = typer.Typer(help="Look at the log of who did what, and check that it is whole.", no_args_is_help=True)


@app.command()
def show(
    *,
    slide: Annotated[
        str | None, typer.Option("--slide", metavar="ID", help="Only what was done to this slide.")
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="ACTION", help="Only this: submitted, replayed, ….")
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

    held = reach(home, store=store, store_endpoint=store_endpoint).store()
    read = (Entry.from_bytes(data) for _, data in entries(held))
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
            help="What an earlier run printed as the log's end; it has to be there still. Can be repeated.",
        ),
    ] = None,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that every entry follows from the one before; exit code 1 if one was changed or is missing.

    Keep the end that it prints where nobody who can write the store can write, and give it with --expect the
    next time: it alone shows that the log was not cut short, or written anew from its beginning.

    For example:

      histgen audit verify

      histgen audit verify --expect 42:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    """
    from histgen_lib.catalogue.audit import verify as read

    expected = dict(map(_end, expect or []))
    verdict = read(reach(home, store=store, store_endpoint=store_endpoint).store(), expected=expected)
    if as_json:
        faults = [{"key": key, "fault": fault} for key, fault in verdict.faults]
        emit_json({"entries": verdict.entries, "end": verdict.head, "faults": faults})
    else:
        _say(verdict)
    raise typer.Exit(BROKEN if verdict.faults else 0)


def _end(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d{1,12}):([0-9a-f]{64})", text)
    if not found:
        raise InvalidInputError(
            "audit-end-unreadable",
            "The expected end of the log cannot be read.",
            hint="Give what histgen audit verify printed: a number, a colon, and 64 hexadecimal digits.",
        )
    return int(found[1]), found[2]


def _line(entry: Entry) -> str:
    what = " ".join(f"{name}={value}" for name, value in sorted(entry.what.items()))
    return f"{entry.time:%Y-%m-%d %H:%M:%S}  {entry.action}  by {entry.by}  {what}"


def _say(verdict: Verdict) -> None:
    for key, fault in verdict.faults:
        err().print(f"{key} {_SAID[fault]}.", style="bold red", soft_wrap=True)
    whole = "NOT whole" if verdict.faults else "whole"
    entries = "entry" if verdict.entries == 1 else "entries"
    out().print(f"The log is {whole}: {verdict.entries} {entries}.", soft_wrap=True)
    if verdict.number:
        out().print(f"Its end: {verdict.head}", soft_wrap=True)

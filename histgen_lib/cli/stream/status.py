"""`histgen status`: the state of every slide, or everything about one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import (
    Failure,
    JsonFlag,
    confidence_word,
    emit_json,
    err,
    json_text,
    number_of,
    out,
    say_error,
)
from histgen_lib.cli.stream.options import Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import SlideScanned
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection
    from histgen_lib.client.following import Snapshot
    from histgen_lib.client.listing import PageQuery, SlidePage
    from histgen_lib.storage import ObjectStore

ROWS = 60
_CHUNK = 1000
"""Rows of one table if all slides are listed."""
_LATE_S = 15.0
_MOST = 1_000_000
"""Of pages, and of slides on one: SQLite can count to their product."""


class StateOption(StrEnum):
    """The values of --state."""

    UNFINISHED = "unfinished"
    SCANNED = "scanned"
    BAGGED = "bagged"
    DRAFTED = "drafted"
    DEAD_LETTER = "dead-letter"


def status(
    slide_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[SLIDE]", help="Id of a slide, or of a copy: its file's name without the ending."
        ),
    ] = None,
    *,
    state: Annotated[
        list[StateOption] | None, typer.Option("--state", help="Only slides in this state. Can be repeated.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=_MOST, metavar="N", help="Slides on a page.")
    ] = ROWS,
    page: Annotated[int, typer.Option("--page", min=1, max=_MOST, metavar="N", help="Page to print.")] = 1,
    show_all: Annotated[bool, typer.Option("--all", help="Print all slides, not a page.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the state of every slide; for one slide also its objects, attempts, and why it has no draft.

    Unfinished slides come first, then the newest scans.

    For example:

      histgen status

      histgen status --state dead-letter --page 2

      histgen status CMU-1 --json

      histgen status --store s3://lab/histgen --store-endpoint http://minio:9000
    """
    from histgen_lib.client.listing import UNFINISHED, PageQuery, slide_page

    connection = reach(home, store=store, store_endpoint=store_endpoint)
    if slide_id is not None:
        _print_one(slide_id, connection, as_json=as_json)
        return
    states = {str(one) for one in state or ()}
    states |= set(UNFINISHED) if StateOption.UNFINISHED in states else set()
    query = PageQuery(states - {StateOption.UNFINISHED}, None if show_all else limit, page)
    with slide_page(connection, query, reading=_reading) as shown:
        if as_json:
            _print_json(shown, query, connection.store())
        else:
            _print_table(shown, query)
            _print_remarks(shown, connection)


def _reading() -> AbstractContextManager[object]:
    return err().status("Reading the whole store …")


def _print_json(shown: SlidePage, query: PageQuery, store: ObjectStore) -> None:
    """Print one document; its slides are written as they are read."""
    from histgen_lib.cli.stream.view import slide_json, snapshot_json

    document = {
        name: value for name, value in snapshot_json(shown.snapshot, store).items() if name != "slides"
    }
    document["page"] = {"number": query.page, "limit": query.limit, "slides": shown.total}
    if shown.behind_s is not None:
        document["index"] |= {"behind_s": round(shown.behind_s, 3)}
    sys.stdout.write(json_text(document)[:-2] + ',\n  "slides": [')
    for number, slide in enumerate(shown.slides):
        text = json_text(slide_json(slide, store))
        sys.stdout.write(("," if number else "") + "\n    " + text.replace("\n", "\n    "))
    sys.stdout.write("\n  ]\n}\n")


def _print_table(shown: SlidePage, query: PageQuery) -> None:
    from histgen_lib.cli.stream.view import slides_table, tally

    count = 0
    while rows := list(islice(shown.slides, _CHUNK)):
        out().print(slides_table(shown.snapshot, rows))
        count += len(rows)
    out().print(tally(shown.snapshot) + (f"; {_rest(shown, query, count)}" if count < shown.total else ""))


def _rest(shown: SlidePage, query: PageQuery, count: int) -> str:
    """Say which slides are shown, and how to see the others."""
    first = query.offset + 1
    part = f"{first:,} to {query.offset + count:,} of {shown.total:,} shown" if count else "no such page"
    more = f"--page {query.page + 1} for the next, " if query.offset + count < shown.total else ""
    return f"{part} ({more}--state for some, --all for all)"


def _print_remarks(shown: SlidePage, connection: Connection) -> None:
    """Say why the answer may be incomplete or out of date."""
    from histgen_lib.cli.stream.view import NOT_WHOLE

    remarks = []
    if not shown.snapshot.whole:
        remarks.append(NOT_WHOLE)
    if shown.behind_s is not None and shown.behind_s > _LATE_S:
        remarks.append(
            f"The gateway last updated the index {shown.behind_s:.0f} s ago: this may be out of date."
        )
    if connection.home and connection.run_dir is None:
        remarks.append(f"No stack runs in {connection.home.folder} now.")
    for line in remarks:
        err().print(line, style="yellow", soft_wrap=True)


def _print_one(slide_id: str, connection: Connection, *, as_json: bool) -> None:
    from histgen_lib.catalogue.states import objects_of
    from histgen_lib.cli.stream.view import slide_json
    from histgen_lib.client.listing import originals_of, slide_states

    store = connection.store()
    try:
        originals = originals_of(store, slide_id)
        snapshot = slide_states(connection, store, [slide_id, *originals])
    except InvalidInputError as error:
        if error.code != "object-key":
            raise
        raise _unknown(slide_id) from error  # no slide can have such a name
    states = [
        _examined(slide, store) for slide in snapshot.slides if slide.slide_id in {slide_id, *originals}
    ]
    if not states:
        raise _unknown(slide_id)
    objects = objects_of(store, states)
    attempts = _attempts(states, snapshot, store)
    strangers = _strangers(states, store)
    if as_json:
        listed = [
            {"key": info.key, "size_bytes": info.size_bytes, "uri": store.uri(info.key)} for info in objects
        ]
        worker = snapshot.busy.get(states[0].slide_id)
        emit_json(
            {
                "slide": [slide_json(state, store) for state in states],
                "copy_of": originals,
                "in_hand_of": worker and worker.name,
                "warnings": [strange.to_dict() for strange in strangers],
                "objects": listed,
                "attempts": attempts,
            }
        )
        return
    for original in originals:
        out().print(f"{slide_id} is a copy of {original}: same bytes, same slide.", soft_wrap=True)
    for state in states:
        _print_state(state, snapshot, store)
    for strange in strangers:
        say_error(strange)
    _print_facts("attempts", [f"{count} by the {worker}" for worker, count in attempts.items()])
    total = sum(info.size_bytes for info in objects)
    out().print(f"objects: {len(objects)}, {_size(total)} in all", style="bold")
    for info in objects:
        out().print(f"  {info.key}  {_size(info.size_bytes)}", soft_wrap=True)


def _examined(state: SlideState, store: ObjectStore) -> SlideState:
    """Check every object of a slide, not only those that decide its state."""
    from histgen_lib.catalogue.verification import check_slide

    data = state.event.data if state.event else None
    of_case = data.case_id if isinstance(data, SlideScanned) and data.case_slides else None
    return state.with_damage(check_slide(store, state.slide_id, of_case))


def _strangers(states: Sequence[SlideState], store: ObjectStore) -> list[Failure]:
    """Warn about other owners' reports that lie, or are pointed to, where the slide's own should be."""
    from histgen_lib.catalogue.overview import Overview

    overview = Overview(store)
    scans = [state.event.data for state in states if state.event]
    found = [one for scan in scans if isinstance(scan, SlideScanned) for one in overview.strangers(scan)]
    return [
        Failure(
            "report-other-slide",
            f"{one.key} is the report of {one.owner}; it is not shown as this slide's.",
            "You need not do anything: the next report of the slide corrects the pointer.",
            65,
        )
        for one in found
    ]


def _unknown(slide_id: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-unknown",
        f"This stack has no slide {printable(slide_id)}.",
        hint="histgen status lists the slides it has; histgen submit adds one.",
    )


def _attempts(states: Sequence[SlideState], snapshot: Snapshot, store: ObjectStore) -> dict[str, int]:
    """Count unfinished attempts at the slide, by worker."""
    from histgen_lib.catalogue.states import attempts_at

    events = {state.event.name for state in states if state.event}
    events |= {state.letter.event_id for state in states if state.letter}
    slides = {state.slide_id for state in states}
    flights = (worker.in_flight for worker in snapshot.workers if worker.in_flight)
    events |= {flight.event_id for flight in flights if flight.slide_id in slides}
    return attempts_at(store, events)


def _print_state(state: SlideState, snapshot: Snapshot, store: ObjectStore) -> None:
    from rich.text import Text

    from histgen_lib.cli.stream.view import STYLES, place_of, waiting_for

    worker = snapshot.busy.get(state.slide_id)
    text = f"in progress by the {worker.name}" if worker and not state.ended else waiting_for(state)
    out().print(
        Text.assemble((state.slide_id, "bold"), ": ", (text, STYLES.get(state.state, ""))), soft_wrap=True
    )
    facts: dict[str, str] = {"slide": state.uri, "copies": ", ".join(state.copies)}
    if state.event:
        facts |= {"scanned": state.event.scanned_at.isoformat(timespec="seconds"), "event": state.event.name}
        facts |= {"trace": state.event.trace_id}
    if state.draft:
        facts |= {
            "page": place_of(store, state.draft.page_key),
            "confidence": confidence_word(state.draft.confidence),
        }
    if state.letter:
        letter = state.letter
        facts |= {"error": f"{letter.code}: {letter.message}", "cure": letter.hint}
        facts |= {
            "letter": letter.event_id,
            "given up": f"by the {letter.worker} after {number_of(letter.attempts, 'attempt')}",
        }
    for name, value in facts.items():
        _print_facts(name, [value] if value else [])
    _print_facts("damaged", [printable(damage) for damage in state.damaged])
    if state.damaged:
        _print_facts("cure", ["histgen verify --repair"])
    if state.draft:
        out().print(f"\n{state.draft.text}\n", soft_wrap=True)


def _print_facts(name: str, values: Sequence[str]) -> None:
    for value in values:
        out().print(f"  {name:<11} {value}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 1024:.1f} KiB"

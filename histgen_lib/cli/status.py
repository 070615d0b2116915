"""`histgen status`: where every slide stands, or everything about one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import (
    Failure,
    JsonFlag,
    confidence_word,
    emit_json,
    err,
    json_text,
    out,
    say_error,
)
from histgen_lib.cli.stream_options import Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import SlideScanned
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.connection import Connection
    from histgen_lib.client.following import Picture
    from histgen_lib.client.standing import Standing, Wanted
    from histgen_lib.storage import ObjectStore

ROWS = 60
_TOGETHER = 1000
"""Rows that are lined up with each other, where all are listed."""
_LATE_S = 15.0
_MOST = 1_000_000
"""Of pages, and of slides on one: their product is a number that SQLite can count to."""


class Chosen(StrEnum):
    """What --state takes."""

    UNFINISHED = "unfinished"
    SCANNED = "scanned"
    BAGGED = "bagged"
    DRAFTED = "drafted"
    DEAD_LETTER = "dead-letter"


def status(
    slide_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[SLIDE]", help="Id of one slide, or of a copy: its file's name without the ending."
        ),
    ] = None,
    *,
    state: Annotated[
        list[Chosen] | None, typer.Option("--state", help="Only slides in this state; may be repeated.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=_MOST, metavar="N", help="Slides a page.")
    ] = ROWS,
    page: Annotated[int, typer.Option("--page", min=1, max=_MOST, metavar="N", help="Which page.")] = 1,
    show_all: Annotated[bool, typer.Option("--all", help="All slides at once, not a page.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Say where every slide stands; of one slide, its objects, attempts, and why it has no draft.

    Slides that have not ended come first, then those scanned last.

    For example:

      histgen status

      histgen status --state dead-letter --page 2

      histgen status CMU-1 --json

      histgen status --store s3://lab/histgen --store-endpoint http://minio:9000
    """
    from histgen_lib.client.standing import UNFINISHED, Wanted, standing

    connection = reach(home, store=store, store_endpoint=store_endpoint)
    if slide_id is not None:
        _one(slide_id, connection, as_json=as_json)
        return
    states = {str(one) for one in state or ()}
    states |= set(UNFINISHED) if Chosen.UNFINISHED in states else set()
    wanted = Wanted(states - {Chosen.UNFINISHED}, None if show_all else limit, page)
    with standing(connection, wanted, reading=_reading) as found:
        if as_json:
            _json(found, wanted, connection.store())
        else:
            _table(found, wanted)
            _remark(found, connection)


def _reading() -> AbstractContextManager[object]:
    return err().status("Reading the whole store …")


def _json(found: Standing, wanted: Wanted, store: ObjectStore) -> None:
    """Print one document, the slides of which are written as they are read."""
    from histgen_lib.cli.stream_view import picture_json, slide_json

    told = {name: value for name, value in picture_json(found.picture, store).items() if name != "slides"}
    told["page"] = {"number": wanted.page, "limit": wanted.limit, "slides": found.total}
    if found.behind_s is not None:
        told["index"] |= {"behind_s": round(found.behind_s, 3)}
    sys.stdout.write(json_text(told)[:-2] + ',\n  "slides": [')
    for number, slide in enumerate(found.slides):
        text = json_text(slide_json(slide, store))
        sys.stdout.write(("," if number else "") + "\n    " + text.replace("\n", "\n    "))
    sys.stdout.write("\n  ]\n}\n")


def _table(found: Standing, wanted: Wanted) -> None:
    from histgen_lib.cli.stream_view import slides_table, tally

    shown = 0
    while rows := list(islice(found.slides, _TOGETHER)):
        out().print(slides_table(found.picture, rows))
        shown += len(rows)
    out().print(tally(found.picture) + (f"; {_rest(found, wanted, shown)}" if shown < found.total else ""))


def _rest(found: Standing, wanted: Wanted, shown: int) -> str:
    """Say which part of the slides is shown, and how to see the others."""
    first = wanted.offset + 1
    part = f"{first:,} to {wanted.offset + shown:,} of {found.total:,} shown" if shown else "no such page"
    more = f"--page {wanted.page + 1} for the next, " if wanted.offset + shown < found.total else ""
    return f"{part} ({more}--state for some, --all for all)"


def _remark(found: Standing, connection: Connection) -> None:
    """Say what keeps the answer from being as fresh or as whole as it should be."""
    from histgen_lib.cli.stream_view import NOT_WHOLE

    said = []
    if not found.picture.whole:
        said.append(NOT_WHOLE)
    if found.behind_s is not None and found.behind_s > _LATE_S:
        said.append(f"The gateway has not looked for {found.behind_s:.0f} s: news since then is not told.")
    if connection.home and connection.run_dir is None:
        said.append(f"No stack runs in {connection.home.folder} now.")
    for line in said:
        err().print(line, style="yellow", soft_wrap=True)


def _one(slide_id: str, connection: Connection, *, as_json: bool) -> None:
    from histgen_lib.catalogue.slide_objects import objects_of
    from histgen_lib.cli.stream_view import slide_json
    from histgen_lib.client.standing import originals_of, slide_states

    store = connection.store()
    try:
        originals = originals_of(store, slide_id)
        picture = slide_states(connection, store, [slide_id, *originals])
    except InvalidInputError as error:
        if error.code != "object-key":
            raise
        raise _unknown(slide_id) from error  # nothing can be kept under such a name
    states = [_examined(slide, store) for slide in picture.slides if slide.slide_id in {slide_id, *originals}]
    if not states:
        raise _unknown(slide_id)
    objects = objects_of(store, states)
    attempts = _attempts(states, picture, store)
    strangers = _strangers(states, store)
    if as_json:
        found = [
            {"key": info.key, "size_bytes": info.size_bytes, "uri": store.uri(info.key)} for info in objects
        ]
        worker = picture.busy.get(states[0].slide_id)
        emit_json(
            {
                "slide": [slide_json(state, store) for state in states],
                "copy_of": originals,
                "in_hand_of": worker and worker.name,
                "warnings": [strange.to_dict() for strange in strangers],
                "objects": found,
                "attempts": attempts,
            }
        )
        return
    for original in originals:
        out().print(f"{slide_id} is a copy of {original}: the same bytes, the same slide.", soft_wrap=True)
    for state in states:
        _print_state(state, picture, store)
    for strange in strangers:
        say_error(strange)
    _print_facts("attempts", [f"{count} by the {worker}" for worker, count in attempts.items()])
    total = sum(info.size_bytes for info in objects)
    out().print(f"objects: {len(objects)}, {_size(total)} together", style="bold")
    for info in objects:
        out().print(f"  {info.key}  {_size(info.size_bytes)}", soft_wrap=True)


def _examined(state: SlideState, store: ObjectStore) -> SlideState:
    """Look at every object of a slide, and not only at what tells where it stands."""
    from histgen_lib.catalogue.verification import check_slide

    data = state.event.data if state.event else None
    of_case = data.case_id if isinstance(data, SlideScanned) and data.case_slides else None
    return state.with_damage(check_slide(store, state.slide_id, of_case))


def _strangers(states: Sequence[SlideState], store: ObjectStore) -> list[Failure]:
    """Say which reports lie, or are pointed to, where a slide's own should be, and are not shown as its."""
    from histgen_lib.catalogue.overview import Overview

    overview = Overview(store)
    scans = [state.event.data for state in states if state.event]
    found = [one for scan in scans if isinstance(scan, SlideScanned) for one in overview.strangers(scan)]
    return [
        Failure(
            "report-other-slide",
            f"{one.key} is the report of {one.owner}, and not shown as this slide's.",
            "Nothing has to be done: the next report of the slide sets the pointer right.",
            65,
        )
        for one in found
    ]


def _unknown(slide_id: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-unknown",
        f"This stack knows no slide {printable(slide_id)}.",
        hint="histgen status lists those it knows; histgen submit hands it a new one.",
    )


def _attempts(states: Sequence[SlideState], picture: Picture, store: ObjectStore) -> dict[str, int]:
    """Count the attempts at the slide that are not finished, by worker: attempts/<worker>/<event id>/<n>."""
    from histgen_lib.catalogue.slide_objects import attempts_at

    events = {state.event.name for state in states if state.event}
    events |= {state.letter.event_id for state in states if state.letter}
    slides = {state.slide_id for state in states}
    flights = (worker.in_flight for worker in picture.workers if worker.in_flight)
    events |= {flight.event_id for flight in flights if flight.slide_id in slides}
    return attempts_at(store, events)


def _print_state(state: SlideState, picture: Picture, store: ObjectStore) -> None:
    from rich.text import Text

    from histgen_lib.cli.stream_view import STYLES, place_of, waiting_for

    worker = picture.busy.get(state.slide_id)
    said = f"in hand of the {worker.name}" if worker and not state.ended else waiting_for(state)
    out().print(
        Text.assemble((state.slide_id, "bold"), ": ", (said, STYLES.get(state.state, ""))), soft_wrap=True
    )
    facts: dict[str, Any] = {"slide": state.uri, "copies": ", ".join(state.copies)}
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
            "given up": f"by the {letter.worker} after {letter.attempts} attempts",
        }
    for name, value in facts.items():
        _print_facts(name, [value] if value else [])
    _print_facts("damaged", [printable(said) for said in state.damaged])
    if state.damaged:
        _print_facts("cure", ["histgen verify --repair"])
    if state.draft:
        out().print(f"\n{state.draft.text}\n", soft_wrap=True)


def _print_facts(name: str, values: Sequence[str]) -> None:
    for value in values:
        out().print(f"  {name:<11} {value}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 1024:.1f} KiB"

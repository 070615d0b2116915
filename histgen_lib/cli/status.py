"""`histgen status`: where every slide stands, or everything about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.output import JsonFlag, confidence_word, emit_json, err, out
from histgen_lib.cli.stream_options import Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.stack.following import Picture
    from histgen_lib.stack.overview import SlideState
    from histgen_lib.storage import ObjectInfo, ObjectStore

MOST_ROWS = 60


def status(
    slide_id: Annotated[
        str | None,
        typer.Argument(metavar="[SLIDE]", help="Id of one slide: its file's name without the ending."),
    ] = None,
    *,
    show_all: Annotated[bool, typer.Option("--all", help="Also list what is long drafted.")] = False,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    as_json: JsonFlag = False,
) -> None:
    """Say where every slide stands; of one slide, its objects, attempts, and why it has no draft.

    For example:

      histgen status

      histgen status CMU-1 --json

      histgen status --store s3://lab/histgen --store-endpoint http://minio:9000
    """
    from histgen_lib.stack.following import Follower  # noqa: PLC0415 - only for commands of the stream

    connection = reach(home, store=store, store_endpoint=store_endpoint)
    objects = connection.store()
    only = None if slide_id is None else {slide_id}
    picture = Follower(objects, connection.run_dir, only=only).look()
    if slide_id is not None:
        _one(slide_id, picture, objects, as_json=as_json)
    elif as_json:
        from histgen_lib.cli.stream_view import picture_json  # noqa: PLC0415

        emit_json(picture_json(picture, objects))
    else:
        _table(picture, show_all=show_all)
        if connection.home and connection.run_dir is None:
            err().print(f"No stack runs in {connection.home.folder} now.", style="yellow", soft_wrap=True)


def _table(picture: Picture, *, show_all: bool) -> None:
    from histgen_lib.cli.stream_view import slides_table, tally  # noqa: PLC0415 - rich only on a screen

    shown: Sequence[SlideState] = picture.slides
    if len(shown) > MOST_ROWS and not show_all:
        shown = [slide for slide in shown if slide.state != "drafted"]
    if shown:
        out().print(slides_table(picture, shown))
    left_out = len(picture.slides) - len(shown)
    out().print(tally(picture) + (f"; --all lists the other {left_out}, too" if left_out else ""))


def _one(slide_id: str, picture: Picture, store: ObjectStore, *, as_json: bool) -> None:
    from histgen_lib.cli.stream_view import slide_json  # noqa: PLC0415

    states = [slide for slide in picture.slides if slide.slide_id == slide_id]
    if not states:
        raise InvalidInputError(
            "slide-unknown",
            f"This stack knows no slide {slide_id}.",
            hint="histgen status lists those it knows; histgen submit hands it a new one.",
        )
    objects = _objects(slide_id, states, store)
    attempts = _attempts(states, picture, store)
    if as_json:
        found = [
            {"key": info.key, "size_bytes": info.size_bytes, "uri": store.uri(info.key)} for info in objects
        ]
        worker = picture.busy.get(slide_id)
        emit_json(
            {
                "slide": [slide_json(state, store) for state in states],
                "in_hand_of": worker and worker.name,
                "objects": found,
                "attempts": attempts,
            }
        )
        return
    for state in states:
        _print_state(state, picture, store)
    _print_facts("attempts", [f"{count} by the {worker}" for worker, count in attempts.items()])
    out().print("objects", style="bold")
    for info in objects:
        out().print(f"  {info.key}  {_size(info.size_bytes)}", soft_wrap=True)


def _objects(slide_id: str, states: Sequence[SlideState], store: ObjectStore) -> list[ObjectInfo]:
    owners = {
        state.event.data.case_id for state in states if state.event and hasattr(state.event.data, "case_id")
    }
    prefixes = [f"slides/{slide_id}/", f"bags/{slide_id}/", f"reports/{slide_id}/"]
    prefixes += [f"{room}/{case}/" for case in sorted(filter(None, owners)) for room in ("cases", "reports")]
    prefixes += [f"dead-letter/{state.letter.event_id}.json" for state in states if state.letter]
    return [info for prefix in prefixes for info in store.list(prefix)]


def _attempts(states: Sequence[SlideState], picture: Picture, store: ObjectStore) -> dict[str, int]:
    """Count the attempts at the slide that are not finished, by worker: attempts/<worker>/<event id>/<n>."""
    events = {state.event.id for state in states if state.event}
    events |= {state.letter.event_id for state in states if state.letter}
    slides = {state.slide_id for state in states}
    flights = (worker.in_flight for worker in picture.workers if worker.in_flight)
    events |= {flight.event_id for flight in flights if flight.slide_id in slides}
    counts: dict[str, int] = {}
    for info in store.list("attempts/"):
        _, worker, event_id, *_ = info.key.split("/")
        if event_id in events:
            counts[worker] = counts.get(worker, 0) + 1
    return counts


def _print_state(state: SlideState, picture: Picture, store: ObjectStore) -> None:
    from rich.text import Text  # noqa: PLC0415 - only on a screen

    from histgen_lib.cli.stream_view import STYLES, place_of, waiting_for  # noqa: PLC0415

    worker = picture.busy.get(state.slide_id)
    said = f"in hand of the {worker.name}" if worker and not state.ended else waiting_for(state)
    out().print(
        Text.assemble((state.slide_id, "bold"), ": ", (said, STYLES.get(state.state, ""))), soft_wrap=True
    )
    facts: dict[str, Any] = {"slide": state.uri}
    if state.event:
        facts |= {"scanned": state.event.scanned_at.isoformat(timespec="seconds"), "event": state.event.id}
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
    if state.draft:
        out().print(f"\n{state.draft.text}\n", soft_wrap=True)


def _print_facts(name: str, values: Sequence[str]) -> None:
    for value in values:
        out().print(f"  {name:<11} {value}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 1024:.1f} KiB"

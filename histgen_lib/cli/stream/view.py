"""How the stream is shown: a line for each slide that ends, a live view of what is in progress, and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from histgen_lib.cli.output import Failure, number_of
from histgen_lib.cli.progress import STAGES
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.catalogue.states import SlideState
    from histgen_lib.client.api import WorkerState
    from histgen_lib.client.following import EndedSlide, Snapshot
    from histgen_lib.storage import ObjectStore

STATES = {
    "scanned": "waiting for a tiler",
    "bagged": "waiting for a reporter",
    "drafted": "drafted",
    "dead-letter": "dead letter",
}
STYLES = {"drafted": "green", "dead-letter": "red"}
NOT_WHOLE = "The index of slides is being rebuilt: not all of them are counted yet."
_LAST = 8


def place_of(store: ObjectStore, key: str) -> str:
    """Return where an object lies: its path if it is a file on this machine, else its URI."""
    uri = store.uri(key)
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def ending(slide: SlideState) -> Text:
    """Describe briefly how a slide ended."""
    if slide.draft:
        if slide.draft.out_of_distribution:
            return Text("out of distribution, not to be used", style="yellow")
        summary = slide.draft.fields.get("diagnosis") or slide.draft.text.partition("\n")[0]
        return Text(f"{summary} (the model abstains)" if slide.draft.abstained else summary)
    if slide.letter:
        return Text(f"{slide.letter.code}: {slide.letter.message}")
    return Text(waiting_for(slide))


def waiting_for(slide: SlideState) -> str:
    """Describe what a slide is waiting for, or how it ended."""
    if slide.lacks:
        return f"waiting for other slides of its case: {', '.join(slide.lacks)}"
    return STATES[slide.state]


def failure_of(slide: SlideState) -> Failure | None:
    """Return the dead letter of a slide as an error of the command; None if it has none."""
    if slide.letter is None:
        return None
    return Failure(slide.letter.code, slide.letter.message, slide.letter.hint, 65)


def print_ended(console: Console, ended: EndedSlide) -> None:
    """Print a line for a slide that ended."""
    slide = ended.slide
    clock = time.strftime("%H:%M:%S")
    console.print(
        Text.assemble(
            (f"{clock} ", "dim"),
            (f"{STATES[slide.state]} ", STYLES[slide.state]),
            (slide.slide_id, "bold"),
            f" after {ended.seconds:.1f} s{_copies(slide)}: ",
            ending(slide),
        ),
        soft_wrap=True,
    )


class LiveView:
    """Renders the stream. `heading`: lines above it."""

    def __init__(self, heading: Sequence[str] = ()) -> None:
        self._heading = heading
        self._last: list[EndedSlide] = []

    def render(self, snapshot: Snapshot, servers: Iterable[tuple[str, str]] = ()) -> RenderableType:
        """Render one snapshot. `servers`: name and state of processes that are not our services."""
        self._last = [*self._last, *snapshot.news][-_LAST:]
        services = Table.grid(padding=(0, 1))
        for name, state in servers:
            services.add_row(_dot(state == "running"), name, state)
        for worker in snapshot.workers:
            services.add_row(_dot(worker.ready), worker.name, _doing(worker))
        parts: list[RenderableType] = [Text(line, overflow="fold") for line in self._heading]
        parts += [Text(), services, Text(), Text(tally(snapshot), style="bold")]
        if not snapshot.whole:
            parts.append(Text(NOT_WHOLE, style="yellow"))
        parts += [_line(ended) for ended in self._last]
        return Group(*parts)


def tally(snapshot: Snapshot) -> str:
    """Count the slides by state, in one line."""
    counts = snapshot.counts
    parts = [
        f"{snapshot.waiting} waiting",
        f"{len(snapshot.busy)} in progress",
        f"{counts['drafted']} drafted",
        number_of(counts["dead-letter"], "dead letter"),
    ]
    if snapshot.per_minute:
        parts.append(f"{snapshot.per_minute:.1f} a minute")
    if snapshot.away:
        parts.append(f"the store does not answer ({snapshot.away})")
    return " · ".join(parts)


def slides_table(snapshot: Snapshot, slides: Iterable[SlideState]) -> Table:
    """Make a table of one row for each slide."""
    table = Table("Slide", "State", "", box=None, pad_edge=False)
    for slide in slides:
        worker = snapshot.busy.get(slide.slide_id)
        state = "in progress" if worker else waiting_for(slide)
        detail = _doing(worker) if worker else ending(slide) if slide.ended else ""
        table.add_row(
            Text(f"{slide.slide_id}{_copies(slide)}"), Text(state, style=STYLES.get(slide.state, "")), detail
        )
        for damage in slide.damaged:
            table.add_row("", Text("damaged", style="red"), Text(printable(damage), style="red"))
    return table


def _copies(slide: SlideState) -> str:
    return f" (copies: {', '.join(slide.copies)})" if slide.copies else ""


def snapshot_json(snapshot: Snapshot, store: ObjectStore) -> dict[str, Any]:
    """Return what --json prints of a snapshot."""
    return {
        "counts": dict(snapshot.counts),
        "slides": [slide_json(slide, store) for slide in snapshot.slides],
        "services": [_worker_json(worker) for worker in snapshot.workers],
        "store_away": snapshot.away or None,
        "index": None if snapshot.totals is None else {"complete": snapshot.whole},
    }


def slide_json(slide: SlideState, store: ObjectStore) -> dict[str, Any]:
    """Return what --json prints of a slide."""
    event, draft, letter = slide.event, slide.draft, slide.letter
    return {
        "slide_id": slide.slide_id,
        "state": slide.state,
        "uri": slide.uri or None,
        "event_id": event.name if event else letter.event_id if letter else None,
        "scanned_at": event and event.scanned_at.isoformat(),
        "trace_id": event and event.trace_id,
        "waits_for_slides": list(slide.lacks),
        "copies": list(slide.copies),
        "damaged": list(slide.damaged),
        "draft": draft
        and {
            "json": place_of(store, draft.key),
            "page": place_of(store, draft.page_key),
            "abstained": draft.abstained,
            "out_of_distribution": draft.out_of_distribution,
            "confidence": draft.confidence,
            "text": draft.text,
        },
        "dead_letter": letter
        and {
            "event_id": letter.event_id,
            "code": letter.code,
            "message": letter.message,
            "hint": letter.hint,
            "attempts": letter.attempts,
            "worker": letter.worker,
        },
    }


def _worker_json(worker: WorkerState) -> dict[str, Any]:
    flight = worker.in_flight
    return {
        "name": worker.name,
        "pid": worker.pid,
        "url": worker.url,
        "ready": worker.ready,
        "missing": dict(worker.missing),
        "in_flight": flight and vars(flight),
        "set_aside": dict(worker.set_aside),
    }


def _line(ended: EndedSlide) -> Text:
    slide = ended.slide
    mark = ("✓ ", "green") if slide.draft else ("✗ ", "red")
    line = Text.assemble(
        mark, (slide.slide_id, "bold"), f" {ended.seconds:.1f} s{_copies(slide)}  ", ending(slide)
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _dot(well: bool) -> Text:
    return Text("●", style="green" if well else "yellow")


def _doing(worker: WorkerState) -> RenderableType:
    """Describe what a worker is doing, or what keeps it from working."""
    flight = worker.in_flight
    if not worker.answers:
        return Text("does not answer", style="yellow")
    missing = ", ".join(f"{name} ({code})" for name, code in worker.missing.items())
    aside = ", ".join(f"{count} set aside ({code})" for code, count in worker.set_aside.items())
    lacks = "; ".join(filter(None, (missing and f"waiting for {missing}", aside)))
    style = "yellow" if lacks else ""
    if flight is None:
        return Text(lacks, style=style) if lacks else Text("ready", style="dim")
    text = f"{flight.slide_id}: {STAGES.get(flight.stage, 'starting')}, {flight.seconds:.0f} s"
    if flight.attempt > 1:
        text += f", attempt {flight.attempt}"
    if lacks:
        text += f"; {lacks}"
    if flight.total <= 1:
        return Text(text, style=style)
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(flight.total, flight.done, width=20)
    row.add_row(Text(text, style=style), bar, f"{flight.done}/{flight.total} tiles")
    return row

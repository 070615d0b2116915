"""A folder store with many slides, written directly."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from planted_objects import BAD, NOON, content

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.events import Event, SlideScanned
from histgen_lib.reports.renderers import DRAFT_JSON


def plant_many(folder: Path, count: int) -> dict[str, int]:
    """Write `count` slides; of every ten, seven are drafted, two are dead letters and one is waiting.

    Returns the number of slides in each state.
    """
    (folder / ".incoming").mkdir(parents=True, exist_ok=True)
    totals = {"drafted": 0, "dead-letter": 0, "scanned": 0}
    for number in range(count):
        event = _scan(folder, number)
        kind = "scanned" if number % 10 == 9 else "dead-letter" if number % 10 > 6 else "drafted"
        totals[kind] += 1
        if kind == "drafted":
            _draft(folder, event)
        elif kind == "dead-letter":
            letter = DeadLetter.of_event(event, BAD, attempts=1, worker="tiler")
            _write(folder / letter.key, letter.to_bytes())
    return totals


def _scan(folder: Path, number: int) -> Event:
    slide_id = f"slide-{number:06d}"
    data = SlideScanned(slide_id, f"file:///scans/{slide_id}.svs", content(slide_id), 1)
    now = NOON + timedelta(seconds=number)
    event = Event.first(data, source="/histgen/gateway", now=now, identity=slide_id)
    _write(folder / keys.scanned_key(slide_id), json.dumps({"event": event.to_json()}).encode())
    return event


def _draft(folder: Path, event: Event) -> None:
    slide_id = event.key
    draft = {
        "slide_id": slide_id,
        "text": "Colon, biopsy:\n  Adenoma\n  - Dysplasia: low grade",
        "fields": {"diagnosis": "Adenoma"},
        "abstained": False,
        "out_of_distribution": {"flag": False},
        "confidence": 0.9,
        "provenance": {"slide": {"content_id": content(slide_id), "mpp": 0.5}},
    }
    owner, digest = keys.ReportOwner(slide_id), content(f"{slide_id} report")
    key = owner.report(digest, DRAFT_JSON)
    pointer = {"schema": 1, "slide_id": slide_id, "report_digest": digest, "draft": key, "previous": []}
    _write(folder / key, json.dumps(draft).encode())
    _write(folder / owner.latest, json.dumps(pointer).encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

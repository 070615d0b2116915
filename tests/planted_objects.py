"""Objects as gateway, tiler and reporter leave them, written without running any."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.storage import ObjectStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BAD = InvalidInputError("slide-damaged", "The slide is damaged.", hint="Copy it again.")


def content(text: str) -> str:
    return sha256_hex(text.encode())


def scan(
    store: ObjectStore, slide_id: str, *, data: str = "", uri: str = "", mpp: float | None = None, **case
) -> Event:
    """Write the record of an announced slide; `data` stands for its bytes."""
    slide = SlideScanned(
        slide_id, uri or f"file:///{slide_id}.svs", content(data or slide_id), 1, mpp, **case
    )
    event = Event.first(slide, source="/histgen/gateway", now=NOON, identity=f"{slide_id}{data}{mpp}")
    store.put(keys.scanned_key(slide_id), canonical_json({"event": event.to_json()}), if_absent=False)
    return event


def bag(store: ObjectStore, slide_id: str, *, data: str = "", mpp: float = 0.5) -> None:
    """Write the scan record of a bag."""
    record = {"slide_id": slide_id, "content_id": content(data or slide_id), "mpp": mpp}
    store.put(keys.scan_key(slide_id, sha256_hex(canonical_json(record))), canonical_json(record))


def draft(
    store: ObjectStore, owner: str, *slides: str, data: str = "", mpp: float = 0.5, foreign: bool = False
) -> str:
    """Write a report and its pointer, for a case if `slides` are named; return the draft's key."""

    def origin(slide_id: str) -> dict[str, object]:
        return {"content_id": content(data or slide_id), "mpp": mpp}

    value = {
        "slide_id": owner,
        "text": "Colon:\n  Adenoma",
        "fields": {"diagnosis": "Adenoma"},
        "abstained": foreign,
        "out_of_distribution": {"flag": foreign},
        "confidence": 0.9,
        "provenance": {"slide": origin(owner)},
    }
    whose = keys.ReportOwner(owner, is_case=bool(slides))
    if slides:
        value["case_id"] = owner
        value["slides"] = [{"slide_id": slide, "slide": origin(slide)} for slide in slides]
    digest = sha256_hex(canonical_json(value))
    key = whose.report(digest, DRAFT_JSON)
    store.put(key, json.dumps(value).encode())
    pointer = {"schema": 1, "slide_id": owner, "report_digest": digest, "draft": key, "previous": []}
    store.put(whose.latest, json.dumps(pointer).encode(), if_absent=False)
    return key


def letter(
    store: ObjectStore, event: Event, error: InvalidInputError = BAD, worker: str = "tiler"
) -> DeadLetter:
    """Write the dead letter of an event."""
    given_up = DeadLetter.of_event(event, error, attempts=2, worker=worker)
    store.put(given_up.key, given_up.to_bytes())
    return given_up

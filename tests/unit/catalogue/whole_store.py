"""A store as gateway, tiler and reporter leave it: slides, one by hand, a case, a copy, a letter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import planted_objects as planted
import tiny_model
from job_kit import NOW, JobLab, scanned

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.keys import copy_key
from histgen_lib.catalogue.registry import Owner, keep, take_in
from histgen_lib.events import Event, SlideScanned
from services.gateway.intake import Ledger

CASE = {"case_id": "C", "case_slides": ("b", "c")}


def make(folder: Path, model_dir: Path) -> JobLab:
    """Make the store in `folder`, beside the slides."""
    lab = JobLab.at(folder, model_dir)
    for name in "abc":
        announce(lab, tiny_model.write_slide(folder / f"{name}.tif", side_px=640, seed=ord(name)), name)
    remake(lab, events(lab))
    lost = announce(lab, tiny_model.write_slide(folder / "d.tif", side_px=640, seed=9), "d")
    letter = DeadLetter.of_event(lost, planted.BAD, attempts=1, worker="tiler")
    lab.store.put(letter.key, letter.to_bytes())
    publish(lab, tiny_model.write_slide(folder / "h.tif", side_px=640, seed=10), "h")
    Ledger(lab.store).name_copy("copy-of-a", "a", "file:///elsewhere/copy-of-a.tif")
    assert lab.store.head(copy_key("copy-of-a", "a"))
    return lab


def announce(lab: JobLab, slide: Path, name: str) -> Event:
    data = scanned(slide, slide_id=name, **(CASE if name in "bc" else {}))
    event = Event.first(data, source="/histgen/gateway", now=NOW, identity=name)
    ledger = Ledger(lab.store)
    ledger.claim(name, Owner(data.uri, data.content_id))
    ledger.record(event)
    return event


def publish(lab: JobLab, slide: Path, name: str) -> None:
    """Process a slide whose event somebody published directly."""
    data = scanned(slide, slide_id=name)
    event = Event.first(data, source="lab/scanner-1", now=NOW, identity="17")
    taken = take_in(lab.store, event)
    remake(lab, [event])
    keep(lab.store, event, taken)


def events(lab: JobLab) -> list[Event]:
    found = [Ledger(lab.store).latest(name) for name in "abcd"]
    return [one.event for one in found if one]


def remake(lab: JobLab, events: Sequence[Event]) -> None:
    """Process these events as tiler and reporter do, whether they come for the first time or again."""
    for event in events:
        assert isinstance(event.data, SlideScanned)
        lab.remake(event.data)

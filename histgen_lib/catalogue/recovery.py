"""Slides of which records are damaged or gone: what else tells of them, and whose reports are theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from histgen_lib.catalogue.digests import Fault
from histgen_lib.catalogue.keys import SCANNED, SLIDES, ReportOwner, case_prefix, owner_key, scanned_key
from histgen_lib.catalogue.pointer import pointer_of
from histgen_lib.catalogue.recall import latest_event, read_announcement, recover_announcement
from histgen_lib.events import Event, SlideScanned
from histgen_lib.storage import ObjectInfo, ObjectStore


@dataclass(frozen=True)
class Scan:
    """A slide, its latest event if that is known from wherever, and what is wrong with the record of it."""

    slide_id: str
    event: Event | None
    damaged: tuple[str, ...] = ()


def gone(slide_id: str) -> ObjectInfo:
    """Stand in for the record of a slide that has none, though somebody has its id."""
    return ObjectInfo(scanned_key(slide_id), 0, "", 0.0)


def slide_of(info: ObjectInfo) -> str:
    """Return whose record it is."""
    return info.key.removeprefix(SLIDES).removesuffix(SCANNED)


def read_scan(store: ObjectStore, info: ObjectInfo, data: bytes) -> Scan | None:
    """Read the record of a slide, which may be damaged or `gone`; None if nobody announced it yet."""
    slide_id = slide_of(info)
    if said := read_announcement(data, slide_id):
        return Scan(slide_id, said.event)
    said = recover_announcement(store, slide_id, data)
    if said is None and not info.etag:
        return None
    fault = f"{info.key} {Fault.UNREADABLE if info.etag else Fault.MISSING}"
    return Scan(slide_id, said.event if said else None, (fault,))


def scan_of(store: ObjectStore, slide_id: str) -> Event | None:
    """Return a slide's latest event; where its record is damaged or gone, what else tells of it."""
    if event := latest_event(store, slide_id):
        return event
    said = recover_announcement(store, slide_id)
    return said.event if said else None


def report_owner(slide: SlideScanned) -> ReportOwner:
    """Return whose report tells of a slide: its own, or its case's if the case has slides to wait for."""
    if slide.case_id and slide.case_slides:
        return ReportOwner(slide.case_id, is_case=True)
    return ReportOwner(slide.slide_id)


def events_of(store: ObjectStore, owner: ReportOwner) -> list[Event]:
    """Return the latest events of the slides that a report tells of, by whose report it is."""
    found = [event for slide_id in _slides_of(store, owner) if (event := scan_of(store, slide_id))]
    return [one for one in found if isinstance(one.data, SlideScanned) and report_owner(one.data) == owner]


def slides_of(store: ObjectStore, owners: Iterable[str]) -> set[str]:
    """Name the slides that damage tells of, by whose it is, see `ReportOwner.name`; "" is nobody."""
    whose = [ReportOwner.named(name) for name in set(owners) - {""}]
    return {slide_id for owner in whose for slide_id in _slides_of(store, owner)}


def room_owner(store: ObjectStore, owner: ReportOwner) -> ReportOwner:
    """Say whose the reports are in an owner's folder that do not say it.

    Earlier versions left those of cases where those of slides lie: a case's, if no slide has the id.
    """
    if owner.is_case or store.head(scanned_key(owner.id)) or store.head(owner_key(owner.id)):
        return owner
    return ReportOwner(owner.id, is_case=any(store.list(case_prefix(owner.id))))


def _slides_of(store: ObjectStore, owner: ReportOwner) -> list[str]:
    if not owner.is_case:
        return [owner.id]
    prefix = case_prefix(owner.id)
    listed = {pointer_of(info.key) for info in store.list(prefix)}
    return sorted(key.removeprefix(prefix).removesuffix(".json") for key in listed)

"""Cases: slides that get one report together, once the bags of all of them are there.

Each slide that is ready puts a pointer to its bag under its case; whoever finds all pointers there drafts. Of
slides that become ready at the same moment at least one sees all pointers, and all that do make the same
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from histgen_lib.catalogue.keys import ReportOwner, case_prefix, case_slide_key, owner_key, scanned_key
from histgen_lib.catalogue.pointers import (
    BY_BAG,
    TURN,
    advance,
    had_before,
    pointer_of,
    read_pointer,
    recall_pointer,
)
from histgen_lib.catalogue.registry import check_name, find_event, latest_announcement
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class Member:
    """A slide's bag as a report needs it."""

    slide_id: str
    uri: str
    bag_digest: str
    bag_key: str
    scan_key: str
    turn: int = 0

    @classmethod
    def of(cls, ready: BagReady) -> Self:
        """Take it out of an event."""
        return cls(ready.slide_id, ready.uri, ready.bag_digest, ready.bag_key, ready.scan_key, ready.turn)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Self:
        """Take it out of a pointer. Raises InvalidInputError("case-unreadable")."""
        try:
            texts = {f.name: str(value[f.name]) for f in fields(cls) if f.name != TURN}
            return cls(**texts, turn=int(value.get(TURN, 0)))
        except (KeyError, TypeError, ValueError):
            raise _unreadable() from None


def is_of_case(ready: BagReady) -> bool:
    """Whether the slide is to be reported with others; a case that names no slides is only a label."""
    return ready.case_id is not None and bool(ready.case_slides)


def join_case(store: ObjectStore, ready: BagReady) -> None:
    """Set the case's pointer to the slide's bag, unless it had that value before.

    Raises InvalidInputError: "case-slide-unlisted" if the case does not name the slide, "slide-id-invalid",
    "case-slide-elsewhere" if the slide was announced with another case, and as `advance`.
    """
    _check_listed(ready)
    _check_announced(store, ready)
    value = {
        "schema": 1,
        "case_id": ready.case_id,
        **asdict(Member.of(ready)),
        "case_slides": list(ready.case_slides),
    }
    advance(store, _key(ready, ready.slide_id), value, by=BY_BAG)


def has_joined(store: ObjectStore, ready: BagReady) -> bool:
    """Whether `join_case` was done for this very bag. Raises InvalidInputError("case-slide-unlisted")."""
    _check_listed(ready)
    pointer = read_pointer(store, _key(ready, ready.slide_id), by=BY_BAG)
    return pointer is not None and had_before(pointer, asdict(Member.of(ready)), by=BY_BAG)


def case_members(store: ObjectStore, ready: BagReady) -> list[Member] | None:
    """Return the bags of all slides in the case's order; None while some are missing."""
    if missing_slides(store, str(ready.case_id), ready.case_slides):
        return None
    return [_member(store, ready, slide_id) for slide_id in dict.fromkeys(ready.case_slides)]


def is_still_of_case(store: ObjectStore, ready: BagReady, members: Sequence[Member]) -> bool:
    """Whether no other slide was announced with another case, or without one, since it joined this one.

    Raises InvalidInputError("case-slide-elsewhere") if one was. Returns False instead for an event whose
    slide has had a later one since, which raises it.
    """
    for member in members:
        scan = latest_announcement(store, member.slide_id) if member.slide_id != ready.slide_id else None
        if scan and scan.data.case_id != ready.case_id:
            if ready.bag_digest not in [one.bag_digest for one in members]:
                return False
            raise _elsewhere(member.slide_id, ready)
    return True


def missing_slides(store: ObjectStore, case_id: str, slides: Iterable[str]) -> list[str]:
    """Return the slides of a case whose bags its report still waits for, in the case's order."""
    there = set(_pointers(store, case_id))
    return [slide for slide in dict.fromkeys(slides) if case_slide_key(case_id, slide) not in there]


def events_of(store: ObjectStore, owner: ReportOwner) -> list[Event]:
    """Return the latest events of the slides that an owner's report covers."""
    found = [event for slide_id in _slides_of(store, owner) if (event := find_event(store, slide_id))]
    return [one for one in found if isinstance(one.data, SlideScanned) and ReportOwner.of(one.data) == owner]


def slides_of(store: ObjectStore, owners: Iterable[str]) -> set[str]:
    """Return the ids of the slides that belong to these owners, by `ReportOwner.name`; "" is nobody."""
    named = [ReportOwner.named(name) for name in set(owners) - {""}]
    return {slide_id for owner in named for slide_id in _slides_of(store, owner)}


def _slides_of(store: ObjectStore, owner: ReportOwner) -> list[str]:
    if not owner.is_case:
        return [owner.id]
    prefix = case_prefix(owner.id)
    return sorted(key.removeprefix(prefix).removesuffix(".json") for key in set(_pointers(store, owner.id)))


def folder_owner(store: ObjectStore, owner: ReportOwner) -> ReportOwner:
    """Return whose the reports in an owner's folder are that do not say it themselves.

    Earlier versions kept those of cases where those of slides lie: a case's, if no slide has the id.
    """
    if owner.is_case or store.head(scanned_key(owner.id)) or store.head(owner_key(owner.id)):
        return owner
    return ReportOwner(owner.id, is_case=any(store.list(case_prefix(owner.id))))


def _pointers(store: ObjectStore, case_id: str) -> Iterable[str]:
    return (pointer_of(info.key) for info in store.list(case_prefix(case_id)))


def _member(store: ObjectStore, ready: BagReady, slide_id: str) -> Member:
    member = Member.read(recall_pointer(store, _key(ready, slide_id), by=BY_BAG) or {})
    if member.slide_id != slide_id:
        raise _unreadable()
    return member


def _key(ready: BagReady, slide_id: str) -> str:
    return case_slide_key(str(ready.case_id), slide_id)


def _check_announced(store: ObjectStore, ready: BagReady) -> None:
    """Refuse a bag's event that puts its slide into another case than the slide's scan did."""
    for name in (str(ready.case_id), *ready.case_slides):
        check_name(name)
    scan = latest_announcement(store, ready.slide_id)
    same = scan and (scan.data.content_id, scan.data.turn) == (ready.content_id, ready.turn)
    if scan and same and scan.data.case_id != ready.case_id:
        raise _elsewhere(ready.slide_id, ready)


def _check_listed(ready: BagReady) -> None:
    if ready.slide_id not in ready.case_slides:
        raise InvalidInputError(
            "case-slide-unlisted",
            f"The case does not name the slide {ready.slide_id} itself.",
            hint="Announce every slide of a case with the ids of all of its slides.",
        )


def _elsewhere(slide_id: str, ready: BagReady) -> InvalidInputError:
    return InvalidInputError(
        "case-slide-elsewhere",
        f"The slide {slide_id} was announced with another case than {ready.case_id}, or with none.",
        hint="Announce every slide of the case again, with the ids of all slides that belong to it now.",
    )


def _unreadable() -> InvalidInputError:
    return InvalidInputError(
        "case-unreadable",
        "The pointer to the bag of one of the case's slides cannot be read.",
        hint="Delete its objects under cases/; `histgen replay --unfinished` brings the others.",
    )

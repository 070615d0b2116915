"""Cases: slides that get one report together, once the bags of all of them are there.

Each slide that is ready puts a pointer to its bag under its case; whoever finds all pointers there drafts. Of
slides that become ready at the same moment at least one sees all, and all that do make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from histgen_lib.catalogue.books import check_name
from histgen_lib.catalogue.keys import case_prefix, case_slide_key
from histgen_lib.catalogue.pointer import (
    BY_BAG,
    TURN,
    advance,
    pointer_of,
    read_pointer,
    recall_pointer,
    said_before,
)
from histgen_lib.catalogue.recall import latest_announcement
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady
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
    """Note that the slide's bag is ready; one noted before moves nothing.

    Raises InvalidInputError: "case-slide-unlisted" if the case does not name the slide, "slide-id-invalid",
    "case-slide-elsewhere" if the slide was announced otherwise, and as `advance`.
    """
    _check_listed(ready)
    _check_said(store, ready)
    value = {
        "schema": 1,
        "case_id": ready.case_id,
        **asdict(Member.of(ready)),
        "case_slides": list(ready.case_slides),
    }
    advance(store, _key(ready, ready.slide_id), value, by=BY_BAG)


def has_joined(store: ObjectStore, ready: BagReady) -> bool:
    """Whether `join_case` was done for this very bag. Raises as `join_case`."""
    _check_listed(ready)
    pointer = read_pointer(store, _key(ready, ready.slide_id), by=BY_BAG)
    return pointer is not None and said_before(pointer, asdict(Member.of(ready)), by=BY_BAG)


def case_members(store: ObjectStore, ready: BagReady) -> list[Member] | None:
    """Return the bags of all slides in the case's order; None while some are missing."""
    if missing_slides(store, str(ready.case_id), ready.case_slides):
        return None
    return [_member(store, ready, slide_id) for slide_id in dict.fromkeys(ready.case_slides)]


def is_still_of_case(store: ObjectStore, ready: BagReady, members: Sequence[Member]) -> bool:
    """Whether no other slide was announced with another case, or with none, since it joined this one.

    Raises InvalidInputError("case-slide-elsewhere") if one was; False instead for an event whose slide has
    had a later one since, which is told that already.
    """
    for member in members:
        scan = latest_announcement(store, member.slide_id) if member.slide_id != ready.slide_id else None
        if scan and scan.data.case_id != ready.case_id:
            if ready.bag_digest not in [one.bag_digest for one in members]:
                return False
            raise _elsewhere(member.slide_id, ready)
    return True


def missing_slides(store: ObjectStore, case_id: str, slides: Iterable[str]) -> list[str]:
    """List the slides of a case whose bags its report still waits for, in its order."""
    there = {pointer_of(info.key) for info in store.list(case_prefix(case_id))}
    return [s for s in dict.fromkeys(slides) if case_slide_key(case_id, s) not in there]


def _member(store: ObjectStore, ready: BagReady, slide_id: str) -> Member:
    member = Member.read(recall_pointer(store, _key(ready, slide_id), by=BY_BAG) or {})
    if member.slide_id != slide_id:
        raise _unreadable()
    return member


def _check_said(store: ObjectStore, ready: BagReady) -> None:
    """Refuse an event about a bag that puts its slide into a case of which its scan said nothing."""
    for name in (str(ready.case_id), *ready.case_slides):
        check_name(name)
    scan = latest_announcement(store, ready.slide_id)
    same = scan and (scan.data.content_id, scan.data.turn) == (ready.content_id, ready.turn)
    if scan and same and scan.data.case_id != ready.case_id:
        raise _elsewhere(ready.slide_id, ready)


def _elsewhere(slide_id: str, ready: BagReady) -> InvalidInputError:
    return InvalidInputError(
        "case-slide-elsewhere",
        f"The slide {slide_id} is not of the case {ready.case_id}: it was announced otherwise.",
        hint="Announce every slide of the case again, with the ids of those that belong to it now.",
    )


def _unreadable() -> InvalidInputError:
    return InvalidInputError(
        "case-unreadable",
        "What a case remembers of one of its slides cannot be read.",
        hint="Delete its objects under cases/; `histgen replay --unfinished` brings the others.",
    )


def _key(ready: BagReady, slide_id: str) -> str:
    return case_slide_key(str(ready.case_id), slide_id)


def _check_listed(ready: BagReady) -> None:
    if ready.slide_id not in ready.case_slides:
        raise InvalidInputError(
            "case-slide-unlisted",
            f"The case does not name the slide {ready.slide_id} itself.",
            hint="Announce every slide of a case with the ids of all of its slides.",
        )

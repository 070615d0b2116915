"""What a draft must never be compared with: its own slides, its own case, copies of its slides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from histgen_lib.catalogue.case import slides_of
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.registry import find_event
from histgen_lib.events import SlideScanned
from histgen_lib.pipeline.provenance import ReadSlide
from histgen_lib.reports.record import SimilarCase
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class Kin:
    """The slides of a draft, the SHA-256 of their bytes, and their case, be it only a label of theirs."""

    slides: frozenset[str]
    contents: frozenset[str] = frozenset()
    case_id: str | None = None

    @classmethod
    def of(cls, slides: Iterable[ReadSlide], case_id: str | None = None) -> Self:
        """Take it from the slides of a draft."""
        read = list(slides)
        ids, contents = {one.slide_id for one in read}, {one.content_id for one in read}
        return cls(frozenset(ids), frozenset(contents), case_id)

    @property
    def owners(self) -> frozenset[str]:
        """The names of the owners whose reports are about these slides or their case, as far as is known."""
        case = {ReportOwner(self.case_id, is_case=True).name} if self.case_id else set()
        return self.slides | case

    def has(self, owner: str, slide_id: str, store: ObjectStore | None = None) -> bool:
        """Whether the report of an owner is about one of these slides, their bytes or their case.

        `slide_id`: one of the slides that it is about. Without a store only ids tell. Raises what it raises.
        """
        if owner in self.owners or slide_id in self.slides:
            return True
        if store is None:
            return False
        others = {slide_id} | slides_of(store, [owner])
        return bool(others & self.slides) or any(self._is_same(store, other) for other in others)

    def _is_same(self, store: ObjectStore, slide_id: str) -> bool:
        """Whether a slide was announced with these bytes, or with this case."""
        event = find_event(store, slide_id)
        if event is None or not isinstance(event.data, SlideScanned):
            return False
        return event.data.content_id in self.contents or event.data.case_id == (self.case_id or "")


def owner_of(case: SimilarCase) -> ReportOwner:
    """Return the owner of the report that a draft shows of a similar case."""
    return ReportOwner(case.slide_id) if case.case_id is None else ReportOwner(case.case_id, is_case=True)

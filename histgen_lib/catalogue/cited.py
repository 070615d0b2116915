"""Cases that drafts cite: what the store has of them, and notes of which draft cites which case.

A draft that shows a similar case keeps its bytes when that case is withdrawn later. So that a person can be
told which drafts show it, a note lies under cited/ for each case and draft. It is written before the draft
is: no draft cites a case without one. A note whose draft was never finished, or was pruned, says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from histgen_lib.catalogue.keys import ReportOwner, citation_key, citation_of, citations_prefix
from histgen_lib.catalogue.pointers import BY_REPORT, named_drafts
from histgen_lib.files import sealed_json
from histgen_lib.reports.record import DraftReport, SlideProvenance
from histgen_lib.reports.renderers import DRAFT_JSON, SIMILAR, THUMBNAIL
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.storage import JSON, ObjectStore


@dataclass(frozen=True)
class CitedSlide:
    """A slide of a cited case: as its report recorded it, and where that report's picture of it lies."""

    slide: SlideProvenance
    thumbnail_key: str


def cited_slide(store: ObjectStore, owner: ReportOwner, digest: str, slide_id: str) -> CitedSlide | None:
    """Return what a report says of one of its slides; None if the report is not there any more."""
    for key in named_drafts(owner, {BY_REPORT: digest}):
        data = store.find(key)
        draft = None if data is None else readable_draft(data)
        if draft:
            folder = key.removesuffix(DRAFT_JSON)
            return next((CitedSlide(one, folder + name) for one, name in _slides(draft, slide_id)), None)
    return None


def _slides(draft: DraftReport, slide_id: str) -> Iterator[tuple[SlideProvenance, str]]:
    """Yield the slide with this id as the draft has it, and the name of its thumbnail."""
    if draft.case_id is None and draft.slide_id == slide_id:
        yield draft.provenance.slide, THUMBNAIL
    yield from ((p.slide, f"{slide_id}/{THUMBNAIL}") for p in draft.slides if p.slide_id == slide_id)


def note_citations(store: ObjectStore, owner: ReportOwner, digest: str, cited: Iterable[ReportOwner]) -> None:
    """Note that the owner's report with this digest shows these cases."""
    for one in cited:
        note = {"schema": 1, "cited": one.name, "owner": owner.name, "report_digest": digest}
        store.put(citation_key(one, owner, digest), sealed_json(note), content_type=JSON)


def drafts_citing(store: ObjectStore, owner: ReportOwner) -> list[tuple[ReportOwner, str]]:
    """Return the reports that show a case as a similar one, by owner and digest, in the order of their keys.

    A report that is being written, whose cases are already chosen, is among them.
    """
    noted = [citation_of(info.key) for info in store.list(citations_prefix(owner))]
    return [(citing, digest) for citing, digest in noted if is_there(store, citing, digest)]


def is_there(store: ObjectStore, citing: ReportOwner, digest: str) -> bool:
    """Whether a report that cites cases is there, or begun."""
    return any(store.head(citing.report(digest, name)) for name in (DRAFT_JSON, SIMILAR))

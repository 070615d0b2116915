"""What of a slide or case belongs into the index, by what the store says now, in whatever order it was said.

Events only say whose turn it is. A withdrawal outweighs everything; else the latest signature holds, also
over later drafts, since a person's word outweighs a model's; else the latest draft.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from histgen_lib.bags import Bag
from histgen_lib.catalogue.case import folder_owner
from histgen_lib.catalogue.keys import CASE_REPORTS, REPORTS, ReportOwner
from histgen_lib.catalogue.pointers import BY_REPORT, is_about, latest_of, named_drafts
from histgen_lib.catalogue.registry import covering_owner, find_announcement
from histgen_lib.catalogue.signing import is_withdrawn, signatures_of
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.retrieval._port import CaseEntry
from histgen_lib.retrieval.encoding import encode_bag, encode_text
from histgen_lib.retrieval.subjects import Network, bag_in_store
from histgen_lib.storage import ObjectStore
from histgen_lib.text.synoptic import parse_report


@dataclass(frozen=True)
class Standing:
    """The report of a slide or case that is to be found. `slides`: those it covers, and no later report does.

    `dates`: of their scans, `case_ids`: of the cases that they are said to belong to, be it only as a label;
    "" if not known. Otherwise as `CaseEntry`.
    """

    owner: ReportOwner
    report_digest: str
    slides: tuple[str, ...]
    dates: tuple[str, ...]
    case_ids: tuple[str, ...]
    text: str
    signed: bool
    synthetic: bool
    stain: str = ""
    site: str = ""


def standing_of(store: ObjectStore, owner: ReportOwner) -> Standing | None:
    """Return what is to be found of a slide or case; None for nothing. Raises what the store raises."""
    if is_withdrawn(store, owner):
        return None
    latest = latest_of(store, owner)
    signature = next(iter(reversed(signatures_of(store, owner))), None)
    digest = signature.report_digest if signature else latest
    draft = _draft(store, owner, digest) or _draft(store, owner, latest)
    if draft is None or digest is None:
        return None
    slides = [slide for slide in covered(draft) if _is_covered_by(store, owner, slide)]
    return Standing(
        owner,
        digest,
        tuple(slides),
        *_scans(store, slides),
        signature.text if signature else draft.text,
        signature is not None,
        signature.synthetic if signature else draft.provenance.model.synthetic,
        *((signature.stain, signature.site) if signature else ()),
    )


def covered(draft: DraftReport) -> list[str]:
    """Return the ids of the slides that a report covers."""
    return [slide.slide_id for slide in draft.slides] if draft.case_id else [draft.slide_id]


def owners_in(store: ObjectStore) -> Iterator[ReportOwner]:
    """Yield every slide and case that has a report, in the order of their keys."""
    for area in (CASE_REPORTS, REPORTS):
        before = ""
        for info in store.list(area):
            name = info.key.split("/")[1]
            if name != before:
                before = name
                owner = ReportOwner(name, is_case=area == CASE_REPORTS)
                yield from dict.fromkeys((owner, folder_owner(store, owner)))


def entries_of(store: ObjectStore, network: Network, standing: Standing) -> Iterator[CaseEntry]:
    """Encode a report and its slides, one after the other, as entries of the index.

    Raises InvalidInputError("object-missing") for a slide without a bag, "bag-other-encoder", and what the
    store, bags and the inference server raise.
    """
    if not standing.slides:
        return
    words = encode_text(network.server, network.words, standing.text)
    fields = parse_report(standing.text)
    of_slides = zip(standing.slides, standing.dates, standing.case_ids, strict=True)
    for slide_id, date, case_id in of_slides:
        yield CaseEntry(
            slide_id=slide_id,
            owner=standing.owner.name,
            report_digest=standing.report_digest,
            vectors=encode_bag(network.server, _bag(store, network, slide_id)),
            words=words,
            text=standing.text,
            model=network.digest,
            signed=standing.signed,
            synthetic=standing.synthetic,
            organ=fields.get("organ", ""),
            diagnosis=fields.get("diagnosis", ""),
            stain=standing.stain,
            site=standing.site,
            date=date,
            case_id=case_id,
        )


def _bag(store: ObjectStore, network: Network, slide_id: str) -> Bag:
    try:
        return bag_in_store(store, network, slide_id)[0]
    except InvalidInputError as error:
        if error.code != "query-slide-unknown":
            raise
        raise InvalidInputError(
            "object-missing",
            f"The store has no bag of the slide {slide_id}, which a report covers.",
            hint="Send the slide again, or restore its bag from a backup; then run histgen replay.",
        ) from None


def shows(entry: CaseEntry | None, standing: Standing, model: str) -> bool:
    """Return whether a slide's entry says what the store says, by this retrieval network."""
    return entry is not None and _said(entry) == (
        standing.owner.name,
        standing.report_digest,
        model,
        standing.text,
        standing.signed,
        standing.synthetic,
        standing.stain,
        standing.site,
    )


def contended(owner: ReportOwner) -> TransientError:
    """Return the error for an index that others write to so often that it never shows what the store says."""
    return TransientError(
        "case-index-contended",
        f"The case index does not keep what is written to it of {owner}.",
        hint="It is tried again. If this lasts, see whether another program writes to the index.",
    )


def _said(entry: CaseEntry) -> tuple[object, ...]:
    return (
        entry.owner,
        entry.report_digest,
        entry.model,
        entry.text,
        entry.signed,
        entry.synthetic,
        entry.stain,
        entry.site,
    )


def _draft(store: ObjectStore, owner: ReportOwner, digest: str | None) -> DraftReport | None:
    for key in named_drafts(owner, {BY_REPORT: digest}):
        draft = readable_draft(store.find(key) or b"")
        if draft and is_about(owner, {"slide_id": draft.slide_id, "case_id": draft.case_id}):
            return draft
    return None


def _is_covered_by(store: ObjectStore, owner: ReportOwner, slide_id: str) -> bool:
    """Whether the report that covers a slide now is this owner's; a slide that nobody announced stays.

    A slide that was withdrawn before it joined a case is covered by none.
    """
    if is_withdrawn(store, ReportOwner(slide_id)):
        return False
    return covering_owner(store, slide_id) in (None, owner)


def _scans(store: ObjectStore, slides: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return of each slide's latest scan its date, and the case it came with."""
    scans = [find_announcement(store, slide) for slide in slides]
    return (
        tuple(scan.event.scanned_at.date().isoformat() if scan else "" for scan in scans),
        tuple((scan.data.case_id or "") if scan else "" for scan in scans),
    )

"""bag.ready → report.drafted: a report's files in the store, for one slide or for all slides of a case.

The slide is opened once more, for the pixels of the evidence tiles alone: which tiles those are is not known
before the draft is. If it cannot be read then, there is no report, rather than one whose page differs from
another's: gone means a dead letter, to be replayed when the slide is back; away means waiting. draft.json is
written last of the report's files, then the pointer to the latest report: either may be missing after a
crash, and is made up for when the event comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.access.file_checks import recorded_files
from histgen_lib.access.slide_files import SlideFiles
from histgen_lib.bags import Bag, unpack_bag
from histgen_lib.catalogue.case import (
    Member,
    case_members,
    has_joined,
    is_of_case,
    is_still_of_case,
    join_case,
)
from histgen_lib.catalogue.integrity import is_whole, store_set
from histgen_lib.catalogue.keys import DIGESTS, DRAFT_JSON, ReportOwner, bag_key, bag_thumbnail_key, scan_key
from histgen_lib.catalogue.objects import Made
from histgen_lib.catalogue.pointers import BY_REPORT, named_drafts, tell_latest, tells_of
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, ReportDrafted
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.draft.draft import Drafted, bag_to_draft, bags_to_case_draft
from histgen_lib.pipeline.draft.report_files import report_files
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.pictures import Place, evidence_places, pictures_of, read_evidence
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.provenance import Part, case_origin, inputs_digest, slide_origin
from histgen_lib.pipeline.timing import Stages
from histgen_lib.reports.pictures import Pictures
from histgen_lib.reports.record import DraftReport, Tiling
from histgen_lib.reports.renderers import file_names
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.slides import open_slide
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class _Source:
    """A slide's bag, and what its scan told."""

    member: Member
    scan: ScanRecord
    given: str | None

    @property
    def origin(self) -> dict[str, Any]:
        return slide_origin(self.scan, self.given)


@dataclass(frozen=True)
class _Plan:
    """What is to be reported on, and the digest that names the report; all of it known from small objects."""

    owner: ReportOwner
    sources: Sequence[_Source]
    digest: str


@dataclass(frozen=True)
class DraftJob:
    """Makes reports. `beam_size` overrides the model's."""

    model: ReportModel
    server: InferenceServer
    store: ObjectStore
    files: SlideFiles
    beam_size: int | None = None

    def find(self, ready: BagReady) -> Made[ReportDrafted | None] | None:
        """Return what `run` would tell, if it was done before; opens no slide. Raises as the store."""
        if is_of_case(ready) and not has_joined(self.store, ready):
            return None
        plan = self._plan(ready)
        return Made(None) if plan is None else self._finished(plan)

    def run(self, ready: BagReady, progress: Progress = silent) -> Made[ReportDrafted | None]:
        """Draft, render, store; doing it twice gives the same bytes. None while other slides of a case lack.

        Raises InvalidInputError: "bag-other-slide", "bag-other-encoder", "slide-changed", "slide-missing",
        and what reading slides and bags, the server and the store raise; see `SlideFiles.open` too.
        """
        if is_of_case(ready):
            self._source(Member.of(ready), ready.content_id)  # what joins a case stays there
            join_case(self.store, ready)
        plan = self._plan(ready)
        if plan is None:
            return Made(None)
        if done := self._finished(plan):
            return done
        members = [source.member for source in plan.sources]
        if plan.owner.is_case and not is_still_of_case(self.store, ready, members):
            return Made(None)
        return self._make(plan, progress)

    def _plan(self, ready: BagReady) -> _Plan | None:
        """Find out what is to be reported on; None while other slides of the case lack."""
        if not is_of_case(ready):
            source = self._source(Member.of(ready), ready.content_id)
            digest = inputs_digest(self.model, self.beam_size, source.origin)
            return _Plan(ReportOwner(ready.slide_id), [source], digest)
        members = case_members(self.store, ready)
        if members is None:
            return None
        case_id, sources = str(ready.case_id), [self._source(member) for member in members]
        origin = case_origin(case_id, [source.origin for source in sources])
        owner = ReportOwner(case_id, is_case=True)
        return _Plan(owner, sources, inputs_digest(self.model, self.beam_size, origin))

    def _source(self, member: Member, content_id: str | None = None) -> _Source:
        """Read what a slide's scan told. An event by anybody names the slide's own bag, or none."""
        own = bag_key(member.slide_id, member.bag_digest), scan_key(member.slide_id, member.bag_digest)
        if (member.bag_key, member.scan_key) != own:
            raise _other_slide(member.slide_id)
        scan = ScanRecord.from_bytes(self.store.get(member.scan_key))
        if scan.slide_id != member.slide_id or content_id not in (None, scan.content_id):
            raise _other_slide(member.slide_id)
        ordinary = scan.tiling == Tiling(**asdict(self.model.tiling))
        return _Source(member, scan, None if ordinary else member.bag_digest)

    def _finished(self, plan: _Plan) -> Made[ReportDrafted | None] | None:
        """Tell of a report that lies there already, all of it sound, and see that the pointer knows of it."""
        for key in named_drafts(plan.owner, {BY_REPORT: plan.digest}):
            data = self.store.find(key)
            draft = None if data is None else readable_draft(data)
            if draft and self._is_whole(plan, draft, key.removesuffix(DRAFT_JSON)):
                return Made(self._told(plan, draft, key))
        return None

    def _is_whole(self, plan: _Plan, draft: DraftReport, folder: str) -> bool:
        told = tells_of(plan.owner, {"slide_id": draft.slide_id, "case_id": draft.case_id})
        return told and is_whole(self.store, folder + DIGESTS, [folder + name for name in file_names(draft)])

    def _told(self, plan: _Plan, draft: DraftReport, draft_key: str) -> ReportDrafted:
        turns = {source.member.slide_id: source.member.turn for source in plan.sources}
        tell_latest(self.store, plan.owner, plan.digest, draft_key, turns)
        return ReportDrafted(
            slide_id=plan.owner.id,
            report_digest=plan.digest,
            draft_key=draft_key,
            abstained=draft.abstained,
            case_id=plan.owner.id if plan.owner.is_case else None,
        )

    def _make(self, plan: _Plan, progress: Progress) -> Made[ReportDrafted | None]:
        stages = Stages()
        progress("open", 0, 1)
        with stages("open"):
            parts = [self._part(source) for source in plan.sources]
        progress("open", 1, 1)
        with stages("generate"):
            drafted = self._draft(plan, parts, progress)
        progress("render", 0, 1)
        with stages("read"):
            pictures = self._pictures(plan, parts, drafted)
        with stages("render"):
            folder = self._folder(plan)
            files = report_files(drafted.draft, pictures, lambda name: folder + name)
        progress("render", 1, 1)
        progress("store", 0, 1)
        with stages("store"):
            store_set(self.store, files, folder + DIGESTS)
            told = self._told(plan, drafted.draft, folder + DRAFT_JSON)
        progress("store", 1, 1)
        abstained = {"histgen_abstentions_total": float(drafted.draft.abstained)}
        return Made(told, stages.measures() | abstained)

    def _folder(self, plan: _Plan) -> str:
        """Say where the report belongs: where it lies, if it is a damaged one of an earlier version."""
        places = [key.removesuffix(DRAFT_JSON) for key in named_drafts(plan.owner, {BY_REPORT: plan.digest})]
        return next((place for place in places if any(self.store.list(place))), places[0])

    def _part(self, source: _Source) -> Part:
        member = source.member
        bag = unpack_bag(self.store.get(member.bag_key), f"the bag of {member.slide_id}")
        if bag.slide_id != member.slide_id or tuple(bag.slide_size) != source.scan.size_px:
            raise _other_slide(member.slide_id)
        return Part(bag, source.scan, source.given)

    def _draft(self, plan: _Plan, parts: Sequence[Part], progress: Progress) -> Drafted:
        common: dict[str, Any] = {
            "model": self.model,
            "server": self.server,
            "beam_size": self.beam_size,
            "progress": progress,
        }
        if plan.owner.is_case:
            return bags_to_case_draft(plan.owner.id, parts, **common)
        return bag_to_draft(parts[0], **common)

    def _pictures(self, plan: _Plan, parts: Sequence[Part], drafted: Drafted) -> list[Pictures]:
        ends = np.cumsum([len(part.bag) for part in parts])[:-1]
        weights = np.split(drafted.weights, ends, axis=1)
        shown = []
        for source, part, evidence in zip(plan.sources, parts, weights, strict=True):
            member = source.member
            places = evidence_places(drafted.draft, member.slide_id if plan.owner.is_case else None)
            shown.append(
                pictures_of(
                    part.bag,
                    evidence,
                    thumbnail=self.store.get(bag_thumbnail_key(member.slide_id, member.bag_digest)),
                    tiles=self._tiles(source, places, part.bag),
                )
            )
        return shown

    def _tiles(self, source: _Source, places: set[Place], bag: Bag) -> dict[Place, NDArray[np.uint8]]:
        if not places:
            return {}
        scan = source.scan
        with (
            self.files.open(source.member.uri) as file,
            recorded_files(file.path, scan.fingerprint),
            open_slide(file.path, mpp=scan.mpp, slide_id=scan.slide_id, within=file.within) as slide,
        ):
            return read_evidence(slide, places, bag.span_px)


def _other_slide(slide_id: str) -> InvalidInputError:
    return InvalidInputError(
        "bag-other-slide",
        f"What is said to be the bag of {slide_id}, or lies where it should, is another slide's.",
        hint="Have the event name the slide's own bag; a bag that lies in the wrong place, delete.",
    )

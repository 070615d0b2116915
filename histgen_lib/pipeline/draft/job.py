"""bag.ready → report.drafted: a report's files in the store, for one slide or for all slides of a case.

The slide is opened once more, only for the pixels of the evidence tiles, which are not known before the draft
is. If it cannot be read then, there is no report, rather than one whose page differs from another's: a slide
that is gone means a dead letter, to be replayed when the slide is back; one that is unavailable means
waiting. draft.json is written last of the report's files, then the pointer to the latest report: either may
be missing after a crash, and is completed when the event comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from histgen_lib.access.slide_files import SlideFiles, recorded_files
from histgen_lib.catalogue.case import (
    Member,
    has_joined,
    is_of_case,
    is_still_of_case,
    join_case,
)
from histgen_lib.catalogue.cited import note_citations
from histgen_lib.catalogue.signing import shows_withdrawn
from histgen_lib.catalogue.stored import Source, StoredReport, source_of, sources_of
from histgen_lib.events import BagReady, Event, ReportDrafted
from histgen_lib.files import sha256_hex
from histgen_lib.models.histgen.serving import NAME
from histgen_lib.pipeline.draft.drafter import Drafted, Drafter
from histgen_lib.pipeline.draft.kin import Kin, owner_of
from histgen_lib.pipeline.draft.pairs import read_pairs
from histgen_lib.pipeline.draft.similar import UNANSWERED, NearestCases, no_answer
from histgen_lib.pipeline.job import Done, ModelInUse, Progress, Stages, lacking, silent
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.provenance import Part, case_origin, slide_origin
from histgen_lib.reports.notices import unsupported
from histgen_lib.reports.pictures import Pictures, evidence_places, pair_numbers, read_evidence
from histgen_lib.reports.record import DraftReport, SimilarCases, Tiling
from histgen_lib.reports.renderers import render
from histgen_lib.retrieval.encoding import IMAGE, TEXT
from histgen_lib.slides import open_slide
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class _Plan:
    """What to report on, and where to store it; known from small objects alone."""

    sources: Sequence[Source]
    report: StoredReport

    @property
    def case_id(self) -> str | None:
        """The case's id; None for the report of a slide."""
        return self.report.owner.id if self.report.owner.is_case else None

    @property
    def turns(self) -> Mapping[str, int]:
        """The turn of each slide, by its id."""
        return {source.member.slide_id: source.member.turn for source in self.sources}


@dataclass(frozen=True)
class DraftJob:
    """Makes reports; see `histgen_lib.pipeline.job.Job`. `nearest`: where to look for similar cases."""

    drafter: Drafter
    store: ObjectStore
    files: SlideFiles
    nearest: NearestCases | None = None
    takes: ClassVar[tuple[type[BagReady], ...]] = (BagReady,)

    def find(self, event: Event, ready: BagReady) -> Done[ReportDrafted] | None:
        """See Job. Raises what the store raises."""
        if is_of_case(ready) and not has_joined(self.store, ready):
            return None
        plan = self._plan(ready)
        return Done(None) if plan is None else self._found(plan)

    def run(self, event: Event, ready: BagReady, progress: Progress = silent) -> Done[ReportDrafted]:
        """See Job. Nothing follows while slides of a case are missing.

        Raises InvalidInputError: "bag-other-slide", "bag-other-encoder", "slide-changed", "slide-missing",
        and what reading slides and bags, the server and the store raise; see `SlideFiles.open` too.
        """
        if is_of_case(ready):
            # Before it joins: a slide stays in its case.
            source_of(self.store, Member.of(ready), ready.content_id)
            join_case(self.store, ready)
        plan = self._plan(ready)
        if plan is None:
            return Done(None)
        if found := self._found(plan):
            return found
        members = [source.member for source in plan.sources]
        if plan.case_id is not None and not is_still_of_case(self.store, ready, members):
            return Done(None)
        return self._make(plan, ready, Stages(progress))

    def lacking(self) -> Sequence[str]:
        """See Job."""
        return lacking(self.drafter.server, NAME, self.store)

    def models(self) -> Sequence[ModelInUse]:
        """See Job."""
        model, engine = self.drafter.model, self.drafter.server.engine
        made, retrieval = model.provenance, model.folder.retrieval_digest
        return [
            ModelInUse(NAME, made.name, made.sha256[:12], engine(NAME)),
            *(ModelInUse(one, made.name, retrieval[:12], engine(one)) for one in (IMAGE, TEXT) if retrieval),
        ]

    def _plan(self, ready: BagReady) -> _Plan | None:
        """Return what to report on; None while slides of the case are missing."""
        found = sources_of(self.store, ready)
        if found is None:
            return None
        owner, sources = found
        origins = [slide_origin(source.scan, _supplied(source, self.drafter.model)) for source in sources]
        origin: Mapping[str, Any] = case_origin(owner.id, origins) if owner.is_case else origins[0]
        return _Plan(sources, StoredReport(self.store, owner, self.drafter.recipe.inputs_digest(origin)))

    def _found(self, plan: _Plan) -> Done[ReportDrafted] | None:
        """Return a report that is there already and sound, after making sure that the pointer names it."""
        found = plan.report.find(plan.turns)
        return None if found is None else _done(plan, *found)

    def _make(self, plan: _Plan, ready: BagReady, stages: Stages) -> Done[ReportDrafted]:
        with stages("open"):
            parts = [
                Part(source.bag(), source.scan, _supplied(source, self.drafter.model))
                for source in plan.sources
            ]
        with stages("generate"):
            drafted = self._draft(plan, parts)
            with stages.timed("similar"):
                drafted = self._with_similar(plan, ready, drafted)
        with stages("render"):
            with stages.timed("read"):
                pictures = self._pictures(plan, parts, drafted)
            files = render(drafted.draft, pictures)
        with stages("store"):
            draft_key = plan.report.write(files, plan.turns)
        _measure(drafted.draft, stages)
        return _done(plan, drafted.draft, draft_key, stages.measures())

    def _draft(self, plan: _Plan, parts: Sequence[Part]) -> Drafted:
        if plan.case_id is not None:
            return self.drafter.draft_case(plan.case_id, parts)
        return self.drafter.draft(parts[0])

    def _with_similar(self, plan: _Plan, ready: BagReady, drafted: Drafted) -> Drafted:
        """Add the similar cases that the report shows, chosen now or by whoever began it first."""
        if not drafted.seen:
            return drafted
        kin = Kin.of([source.scan for source in plan.sources], ready.case_id)
        model = self.drafter.model.folder.retrieval_digest

        def ask() -> SimilarCases:
            if self.nearest is None:
                return no_answer("off", model)
            return self.nearest.nearest(drafted.seen, model, kin)

        similar = self._chosen(plan.report, ask)
        return replace(drafted, draft=drafted.draft.model_copy(update={"similar": similar}))

    def _chosen(self, report: StoredReport, ask: Callable[[], SimilarCases]) -> SimilarCases:
        """Choose what the report shows, and note it; again, if a case was withdrawn meanwhile.

        Who withdraws one writes that first and then looks for notes: of the two, one sees the other.
        """
        similar = report.similar(ask, self._is_citable)
        while True:
            note_citations(self.store, report.owner, report.digest, map(owner_of, similar.cases))
            kept = report.similar(ask, self._is_citable)
            if kept == similar:
                return kept
            similar = kept

    def _is_citable(self, similar: SimilarCases) -> bool:
        return not any(shows_withdrawn(self.store, owner_of(case), case.slide_id) for case in similar.cases)

    def _pictures(self, plan: _Plan, parts: Sequence[Part], drafted: Drafted) -> list[Pictures]:
        ends = np.cumsum([len(part.bag) for part in parts])[:-1]
        pictures = []
        for source, part, weights in zip(
            plan.sources, parts, np.split(drafted.weights, ends, axis=1), strict=True
        ):
            on_slide = None if plan.case_id is None else source.member.slide_id
            shown = Pictures(source.thumbnail(), part.bag.xy, part.bag.span_px, weights)
            pictures.append(self._with_pixels(source, shown, drafted.draft, on_slide))
        return pictures

    def _with_pixels(
        self, source: Source, shown: Pictures, draft: DraftReport, on_slide: str | None
    ) -> Pictures:
        """Add what has to be read from the slide, which is opened only if there is something."""
        places, numbers = evidence_places(draft, on_slide), pair_numbers(draft, on_slide)
        if not places and not numbers:
            return shown
        scan = source.scan
        with (
            self.files.open(source.member.uri) as file,
            recorded_files(file.path, scan.fingerprint),
            open_slide(file.path, mpp=scan.mpp, slide_id=scan.slide_id, within=file.within) as slide,
        ):
            tiles = read_evidence(slide, places, shown.span_px)
            return replace(shown, tiles=tiles, pairs=read_pairs(slide, shown, draft, numbers, self.store))


def _measure(draft: DraftReport, stages: Stages) -> None:
    """Count what shows whether the model suits the slides. A case is as strange as its strangest one."""
    domain, similar = draft.out_of_distribution, draft.similar
    stages.count("histgen_unsupported_sentences_total", len(unsupported(draft)))
    stages.count("histgen_similar_unanswered_total", similar is not None and similar.answer in UNANSWERED)
    stages.count("histgen_abstentions_total", draft.abstained)
    stages.count("histgen_out_of_distribution_total", domain.flag)
    if domain.score is not None and domain.threshold:
        stages.count("histgen_domain_distance", max(0.0, domain.score / domain.threshold))


def _supplied(source: Source, model: ReportModel) -> str | None:
    """Return the digest of a bag that was cut in another way than the model cuts slides; else None."""
    ordinary = source.scan.tiling == Tiling(**asdict(model.tiling))
    return None if ordinary else source.member.bag_digest


def _done(
    plan: _Plan, draft: DraftReport, draft_key: str, measures: Mapping[str, float] | None = None
) -> Done[ReportDrafted]:
    """Return what follows. The last slides of a case may race: they publish one and the same event."""
    data = ReportDrafted(
        slide_id=plan.report.owner.id,
        report_digest=plan.report.digest,
        draft_key=draft_key,
        abstained=draft.abstained,
        case_id=plan.case_id,
    )
    identity = f"{data.type}|case|{data.draft_key}"
    event_id = None if plan.case_id is None else sha256_hex(identity.encode())[:32]
    return Done(data, measures or {}, event_id)

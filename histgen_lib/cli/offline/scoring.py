"""Drafting a whole split with a model to score it, and writing the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.bags import BAG_SUFFIXES, Bag, read_bag
from histgen_lib.cli.offline.cases import MatchedCases, read_truth
from histgen_lib.cli.options import is_bag, model_folder
from histgen_lib.cli.progress import progress_bar
from histgen_lib.evaluation import (
    EvaluationResult,
    EvidenceCase,
    Pair,
    calibrate,
    cases_from_draft,
    evidence_hit_rate,
    risk_coverage,
    sentence_outcomes,
    write_pairs_csv,
)
from histgen_lib.files import indented_json, write_atomic
from histgen_lib.inference import OnnxServer
from histgen_lib.models.serving import Device, Precision
from histgen_lib.pipeline import Drafter, Scanner, load_model
from histgen_lib.pipeline.provenance import Part
from histgen_lib.reports.record import DraftReport
from histgen_lib.slides import open_slide
from histgen_lib.slides.formats import SLIDE_SUFFIXES
from histgen_lib.training.annotation import read_annotation
from histgen_lib.training.matching import index_files, match_splits


@dataclass(frozen=True)
class ModelRun:
    """A split to draft, and the model to draft it with."""

    model: Path | None
    annotation: Path
    bags: Path | None
    slides: Path | None
    truth: Path | None
    split: str
    threads: int | None
    bootstrap: int
    seed: int
    allow_missing: bool = False
    device: Device = "cpu"
    precision: Precision = "float32"


@dataclass(frozen=True)
class ModelDrafts:
    """The drafts of a split with their references, and evidence cases for scoring."""

    pairs: list[Pair]
    drafts: list[DraftReport]
    evidence: list[EvidenceCase]
    run: ModelRun
    cases: MatchedCases

    def to_dict(self) -> dict[str, Any]:
        """Return calibration and risk over sentences, abstentions, and evidence if the truth is known."""
        outcomes = [
            outcome
            for pair, draft in zip(self.pairs, self.drafts, strict=True)
            for outcome in sentence_outcomes(draft.model_dump(mode="json"), pair.reference)
        ]
        bootstrap, seed = self.run.bootstrap, self.run.seed
        found: dict[str, Any] = {
            "cases": self.cases.to_dict(),
            "compute": {"device": self.run.device, "precision": self.run.precision},
            "abstained": sum(draft.abstained for draft in self.drafts),
            "out_of_distribution": sum(draft.out_of_distribution.flag for draft in self.drafts),
        }
        if outcomes:  # empty drafts, and those of an uncalibrated model, have none
            found["calibration"] = calibrate(outcomes, bootstrap=bootstrap, seed=seed).to_dict()
            found["risk_coverage"] = risk_coverage(outcomes, bootstrap=bootstrap, seed=seed).to_dict()
        if self.evidence:
            found["evidence"] = evidence_hit_rate(self.evidence, bootstrap=bootstrap, seed=seed).to_dict()
        return found


def run_model(run: ModelRun) -> ModelDrafts:
    """Draft every case of the split that has bags (or slides). Raises what `match_splits` raises."""
    model = load_model(model_folder(run.model))
    server = OnnxServer(model.folder.path, threads=run.threads, device=run.device, precision=run.precision)
    scanner, drafter = Scanner(model, server), Drafter(model, server)
    folder, suffixes = (run.bags, BAG_SUFFIXES) if run.bags else (run.slides, SLIDE_SUFFIXES)
    assert folder is not None
    annotation, files = read_annotation(run.annotation), index_files(folder, suffixes)
    [matching] = match_splits(annotation, (run.split,), files, allow_missing=run.allow_missing)
    drafts = ModelDrafts([], [], [], run, MatchedCases())
    drafts.cases([matching])
    with progress_bar("Drafting", "slides") as bar:
        for number, found in enumerate(matching.found):
            bar("slides", number, len(matching.found))
            bags = [_bag(path, scanner) for path in found.paths]
            draft = _draft(found.case.id, bags, drafter)
            drafts.pairs.append(Pair(found.case.id, found.case.report, draft.text))
            drafts.drafts.append(draft)
            drafts.evidence.extend(_evidence(found.case.id, draft, bags, run.truth))
    return drafts


def write_tables(
    folder: Path, content: dict[str, Any], result: EvaluationResult, pairs: Sequence[Pair]
) -> None:
    """Write metrics.json, metrics.csv, cases.csv and predictions.csv into `folder`."""
    write_atomic(folder / "metrics.json", indented_json(content))
    write_pairs_csv(folder / "predictions.csv", pairs)
    result.to_csv(folder / "metrics.csv")
    result.cases_to_csv(folder / "cases.csv")


def _bag(path: Path, scanner: Scanner) -> Bag:
    if is_bag(path):
        return read_bag(path)
    with open_slide(path) as slide:
        return scanner.scan(slide).bag


def _draft(case_id: str, bags: Sequence[Bag], drafter: Drafter) -> DraftReport:
    if len(bags) == 1:
        return drafter.draft(bags[0]).draft
    return drafter.draft_case(case_id, [Part(bag) for bag in bags]).draft


def _evidence(
    case_id: str, draft: DraftReport, bags: Sequence[Bag], truth: Path | None
) -> list[EvidenceCase]:
    known = read_truth(truth, case_id) if len(bags) == 1 and bags[0].has_places else None
    if known is None:
        return []
    return cases_from_draft(draft.model_dump(mode="json"), known, bags[0].xy, bags[0].span_px)

"""Drafting a whole split with a model, so that it can be scored; and the tables that an evaluation leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.bags import Bag, read_bag
from histgen_lib.cli.options import model_folder
from histgen_lib.cli.progress import progress_bar
from histgen_lib.cli.sources import BAG_SUFFIXES
from histgen_lib.evaluation import (
    EvaluationResult,
    EvidenceCase,
    Pair,
    calibrate,
    cases_from_draft,
    evidence_hit_rate,
    risk_coverage,
    sentence_outcomes,
)
from histgen_lib.files import write_atomic
from histgen_lib.inference import InferenceServer, OnnxServer
from histgen_lib.pipeline import ReportModel, bag_to_draft, load_model, scan_to_bag
from histgen_lib.reports.record import DraftReport
from histgen_lib.slides import open_slide
from histgen_lib.slides.parts import SLIDE_SUFFIXES
from histgen_lib.training.annotation import index_files, read_annotation, require_matches


@dataclass(frozen=True)
class ModelRun:
    """What to draft with which model."""

    model: Path | None
    annotation: Path
    bags: Path | None
    slides: Path | None
    truth: Path | None
    split: str
    threads: int | None
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class ModelDrafts:
    """The drafts of a split beside their references, and what only a model's own drafts tell."""

    pairs: list[Pair]
    drafts: list[DraftReport]
    evidence: list[EvidenceCase]
    run: ModelRun

    def to_dict(self) -> dict[str, Any]:
        """Calibration and risk over sentences, abstentions, and evidence where the truth is known."""
        outcomes = [
            outcome
            for pair, draft in zip(self.pairs, self.drafts, strict=True)
            for outcome in sentence_outcomes(draft.model_dump(mode="json"), pair.reference)
        ]
        resampling = {"bootstrap": self.run.bootstrap, "seed": self.run.seed}
        found: dict[str, Any] = {
            "calibration": calibrate(outcomes, **resampling).to_dict(),
            "risk_coverage": risk_coverage(outcomes, **resampling).to_dict(),
            "abstained": sum(draft.abstained for draft in self.drafts),
            "out_of_distribution": sum(draft.out_of_distribution.flag for draft in self.drafts),
        }
        if self.evidence:
            found["evidence"] = evidence_hit_rate(self.evidence, **resampling).to_dict()
        return found


def run_model(run: ModelRun) -> ModelDrafts:
    """Draft every case of the split that has a bag (or slide). InvalidInputError("training-bags-missing")."""
    model = load_model(model_folder(run.model))
    server = OnnxServer(model.folder.path, threads=run.threads)
    folder, suffixes = (run.bags, BAG_SUFFIXES) if run.bags else (run.slides, SLIDE_SUFFIXES)
    assert folder is not None
    cases = read_annotation(run.annotation).split(run.split)
    found = require_matches(run.split, cases, index_files(folder, suffixes), folder)
    made = ModelDrafts([], [], [], run)
    with progress_bar("Drafting", "slides") as bar:
        for number, (case, path) in enumerate(found):
            bar("slides", number, len(found))
            bag = _bag(path, model, server)
            draft = bag_to_draft(bag, model=model, server=server).draft
            made.pairs.append(Pair(case.id, case.report, draft.text))
            made.drafts.append(draft)
            made.evidence.extend(_evidence(case.id, draft, bag, run.truth))
    return made


def write_tables(
    folder: Path, content: dict[str, Any], result: EvaluationResult, pairs: Sequence[Pair]
) -> None:
    """Write metrics.json, metrics.csv, cases.csv and predictions.json into `folder`."""
    write_atomic(folder / "metrics.json", _json(content))
    write_atomic(folder / "predictions.json", _json([vars(pair) for pair in pairs]))
    result.to_csv(folder / "metrics.csv")
    result.cases_to_csv(folder / "cases.csv")


def _bag(path: Path, model: ReportModel, server: InferenceServer) -> Bag:
    if path.suffix.lower() in BAG_SUFFIXES:
        return read_bag(path)
    with open_slide(path) as slide:
        return scan_to_bag(slide, model=model, server=server).bag


def _evidence(case_id: str, draft: DraftReport, bag: Bag, truth: Path | None) -> list[EvidenceCase]:
    path = truth / f"{case_id}.json" if truth else None
    if path is None or not path.is_file() or not bag.has_places:
        return []
    return cases_from_draft(draft.model_dump(mode="json"), json.loads(path.read_bytes()), bag.xy, bag.span_px)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

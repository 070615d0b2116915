"""Scoring generated reports: text metrics, synoptic fields, calibration and evidence, with intervals."""

from histgen_lib.evaluation.bootstrap import Estimate
from histgen_lib.evaluation.calibration import (
    Calibration,
    Outcome,
    RiskCoverage,
    calibrate,
    risk_coverage,
    sentence_outcomes,
)
from histgen_lib.evaluation.csv_pairs import Pair, read_pairs_csv, write_pairs_csv
from histgen_lib.evaluation.evaluate import TOKENIZERS, EvaluationResult, evaluate_pairs
from histgen_lib.evaluation.evidence import (
    EvidenceCase,
    EvidenceResult,
    cases_from_draft,
    evidence_figures,
    evidence_hit_rate,
)
from histgen_lib.evaluation.fields import FieldScore
from histgen_lib.evaluation.parts import register_embedding, register_entities
from histgen_lib.evaluation.reg2025 import RegParts

__all__ = [
    "TOKENIZERS",
    "Calibration",
    "Estimate",
    "EvaluationResult",
    "EvidenceCase",
    "EvidenceResult",
    "FieldScore",
    "Outcome",
    "Pair",
    "RegParts",
    "RiskCoverage",
    "calibrate",
    "cases_from_draft",
    "evaluate_pairs",
    "evidence_figures",
    "evidence_hit_rate",
    "read_pairs_csv",
    "register_embedding",
    "register_entities",
    "risk_coverage",
    "sentence_outcomes",
    "write_pairs_csv",
]

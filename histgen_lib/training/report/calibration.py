"""After training: confidence calibration, the abstention threshold, and statistics of the training domain.

All are fitted on the training and validation splits and written to the model folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.files import canonical_json, write_atomic
from histgen_lib.models.domain import DomainModel, domain_threshold
from histgen_lib.models.folder import DOMAIN, open_model_folder
from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.models.histgen.decoding import Decoded
from histgen_lib.pipeline.draft.sentences import token_spans
from histgen_lib.pipeline.reliability import Calibration, raw_confidence
from histgen_lib.text.synoptic import parse_report, split_sentences
from histgen_lib.text.tokenizers import Tokenizer
from histgen_lib.training.data import Example
from histgen_lib.training.report.validation import Validator

_DOMAIN_SLIDES = 400
_DOMAIN_TILES = 512
_TARGET_ACCURACY = 0.98
_LEAST_CONFIDENCE = 0.5
_ENOUGH_FOR_ISOTONIC = 200


@dataclass(frozen=True)
class Judged:
    """A sentence of a validation draft: its raw confidence, and whether the report has that line."""

    raw: float
    right: bool
    diagnosis: bool


def calibrate_model(
    folder: Path, model: HistGen, examples: Sequence[Example], validator: Validator
) -> dict[str, Any]:
    """Fit and write config.json's "calibration", "abstention" and "domain", and domain.safetensors.

    Returns their effect on the validation drafts, and writes it to training/calibration.json.
    """
    opened = open_model_folder(folder)
    decoded = validator.decode(model, opened.decoding)
    judged = [
        list(judge(draft, example, opened.tokenizer))
        for draft, example in zip(decoded, validator.examples, strict=False)
    ]
    sentences = [sentence for draft in judged for sentence in draft]
    calibration = fit_calibration(sentences)
    abstention, report = fit_abstention(judged, calibration)
    domain, threshold, scores = fit_domain(examples, validator.examples, validator.settings.seed)
    domain.save(folder / DOMAIN)
    update_config(
        folder,
        calibration=calibration.to_config(),
        abstention=abstention,
        domain={
            "method": domain.method,
            "threshold": round(threshold, 4),
            "validation_max": round(max(scores), 4),
        },
    )
    report |= {
        "sentences": len(sentences),
        "sentence_accuracy": float(np.mean([s.right for s in sentences])) if sentences else 0.0,
        "expected_calibration_error_raw": calibration_error(
            [s.raw for s in sentences], [s.right for s in sentences]
        ),
        "expected_calibration_error": calibration_error(
            [calibration.apply(s.raw) for s in sentences], [s.right for s in sentences]
        ),
    }
    write_atomic(folder / "training" / "calibration.json", canonical_json(report))
    return report


def judge(draft: Decoded, example: Example, tokenizer: Tokenizer) -> Iterator[Judged]:
    """Judge the sentences of one draft: a sentence is right if the report has exactly the same line."""
    tokens = draft.tokens.tolist()
    text, spans = tokenizer.decode(tokens), token_spans(tokens, tokenizer)
    truth = {example.report[a:b] for a, b in split_sentences(example.report)}
    diagnosis = parse_report(text).get("diagnosis")
    for start, end in split_sentences(text):
        chosen = [row for row, (a, b) in enumerate(spans) if a < end and b > start]
        line = text[start:end]
        yield Judged(raw_confidence(draft.log_probs[chosen]), line in truth, line == diagnosis)


def fit_calibration(sentences: Sequence[Judged]) -> Calibration:
    """Fit an isotonic table if there are enough sentences, else a temperature; nothing without sentences."""
    raw, right = [s.raw for s in sentences], [s.right for s in sentences]
    if not raw:
        return Calibration()
    if len(raw) >= _ENOUGH_FOR_ISOTONIC:
        return Calibration.fit_isotonic(raw, right)
    return Calibration.fit_temperature(raw, right)


def fit_abstention(
    drafts: Sequence[Sequence[Judged]], calibration: Calibration
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return config.json's "abstention" and its effect on the validation drafts.

    The threshold is the lowest confidence in the diagnosis line, but at least 0.5, above which 98 % of the
    diagnoses are right; if no threshold reaches that, the one with the best accuracy.
    """
    lines = [s for draft in drafts for s in draft if s.diagnosis]
    confidence = np.array([calibration.apply(s.raw) for s in lines])
    right = np.array([s.right for s in lines], dtype=bool)
    threshold = _lowest_threshold(confidence, right)
    kept = confidence >= threshold
    effect = {
        "abstention_coverage": float(kept.mean()) if lines else 0.0,
        "abstention_accuracy": float(right[kept].mean()) if kept.any() else 0.0,
        "diagnosis_accuracy": float(right.mean()) if lines else 0.0,
    }
    return {"threshold": round(threshold, 4), "statistic": "diagnosis", "sentence_threshold": 0.7}, effect


def fit_domain(
    train: Sequence[Example], held_out: Sequence[Example], seed: int
) -> tuple[DomainModel, float, list[float]]:
    """Fit statistics of training slides; return them, a threshold above all validation scores, the scores."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(train))[:_DOMAIN_SLIDES]
    slides = (bag.features for row in chosen for bag in train[row].load())
    domain = DomainModel.fit([_some_tiles(features, rng) for features in slides], seed=seed)
    scores = [domain.score(bag.features) for example in held_out for bag in example.load()]
    return domain, domain_threshold(scores), scores


def _some_tiles(features: NDArray[np.float16], rng: np.random.Generator) -> NDArray[np.float16]:
    """Sample at most 512 tiles of a slide: slides of 10 000 tiles would not fit into memory together."""
    if len(features) <= _DOMAIN_TILES:
        return features
    return features[np.sort(rng.permutation(len(features))[:_DOMAIN_TILES])]


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017)."""
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(values):
        return 0.0
    places = np.minimum((values * bins).astype(int), bins - 1)
    gaps = [
        abs(hits[places == b].mean() - values[places == b].mean()) * (places == b).mean() for b in set(places)
    ]
    return float(np.sum(gaps))


def _lowest_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    candidates = sorted({_LEAST_CONFIDENCE, *confidence[confidence > _LEAST_CONFIDENCE].tolist()})
    accuracy = [float(right[confidence >= t].mean()) if (confidence >= t).any() else 0.0 for t in candidates]
    reached = [t for t, a in zip(candidates, accuracy, strict=True) if a >= _TARGET_ACCURACY]
    return float(reached[0] if reached else candidates[int(np.argmax(accuracy))])

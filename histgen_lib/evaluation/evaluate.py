"""Scoring pairs of reports: coco-caption's metrics, REG2025's score, fields, exact matches, intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, additive, estimate, finite, mean
from histgen_lib.evaluation.captions import (
    BLEU_NAMES,
    METEOR_NAME,
    ROUGE_NAME,
    bleu_from_totals,
    bleu_statistics,
    meteor_counts,
    meteor_from_totals,
    meteor_statistics,
    rouge_l,
)
from histgen_lib.evaluation.csv_pairs import Pair
from histgen_lib.evaluation.fields import ALL_RIGHT, FieldScore, FieldTable, compare_fields
from histgen_lib.evaluation.java import ptb_tokenize
from histgen_lib.evaluation.reg2025 import REG2025_NAMES, RegParts, reg2025, reg2025_scores
from histgen_lib.files import write_atomic
from histgen_lib.text.synoptic import parse_report

SCHEMA = 1

TOKENIZERS = ("none", "ptb")
EXACT = "exact_report"


@dataclass(frozen=True)
class EvaluationResult:
    """Scores over a set of reports.

    `metrics` maps a metric's name to its estimate, in [0, 1] except where docs/evaluation.md says otherwise.
    `cases` holds per-report scores float64[n, len(case_names)] in the order of `ids`.
    """

    ids: tuple[str, ...]
    tokenize: str
    metrics: dict[str, Estimate]
    fields: tuple[FieldScore, ...]
    parts: RegParts
    resamples: int
    seed: int
    notes: tuple[str, ...]
    case_names: tuple[str, ...]
    cases: Floats

    @property
    def pairs(self) -> int:
        """Number of reports scored."""
        return len(self.ids)

    def to_dict(self, *, with_cases: bool = False) -> dict[str, Any]:
        """Return it JSON-ready, with None for "not defined". The same input gives the same dictionary."""
        summary: dict[str, Any] = {
            "schema": SCHEMA,
            "pairs": self.pairs,
            "tokenize": self.tokenize,
            "metrics": {name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "fields": {field.name: field.to_dict() for field in self.fields},
            "reg2025": self.parts.to_dict(),
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "interval": 0.95},
            "notes": list(self.notes),
        }
        return summary | ({"cases": self._case_rows()} if with_cases else {})

    def to_csv(self, path: Path) -> None:
        """Write one row per metric and field: kind, name, value, low, high, references."""
        rows = [["metric", name, *_numbers(estimate), self.pairs] for name, estimate in self.metrics.items()]
        rows += [["field", f.name, *_numbers(f.accuracy), f.references] for f in self.fields]
        _write(path, ["kind", "name", "value", "low", "high", "references"], rows)

    def cases_to_csv(self, path: Path) -> None:
        """Write one row per report: its id and its own scores."""
        rows = ([name, *map(_cell, scores)] for name, scores in zip(self.ids, self.cases, strict=True))
        _write(path, ["id", *self.case_names], rows)

    def _case_rows(self) -> list[dict[str, Any]]:
        return [
            {"id": name} | {k: finite(v) for k, v in zip(self.case_names, scores, strict=True)}
            for name, scores in zip(self.ids, self.cases, strict=True)
        ]


def _numbers(estimate: Estimate) -> list[str]:
    return [_cell(value) for value in (estimate.value, estimate.low, estimate.high)]


def _cell(value: float) -> str:
    return "" if finite(value) is None else repr(float(value))


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())


@dataclass(frozen=True)
class _Settings:
    """How to score; see `evaluate_pairs`."""

    tokenize: str
    bootstrap: int
    seed: int
    with_meteor: bool
    parts: RegParts
    timeout_s: float | None


@dataclass(frozen=True)
class _Scored:
    """A group of metrics: the corpus statistic and each report's own scores, float64[n, m]."""

    statistic: Statistic
    cases: Floats


def evaluate_pairs(
    pairs: Sequence[Pair],
    *,
    tokenize: str = "none",
    bootstrap: int = 0,
    seed: int = 0,
    with_meteor: bool = True,
    parts: RegParts | None = None,
    timeout_s: float | None = None,
) -> EvaluationResult:
    """Score generated reports against their references.

    `tokenize`: "none" passes the texts on unchanged, as HistGen's own evaluation does (BLEU splits at white
    space, ROUGE-L at single spaces); "ptb" is coco-caption's tokenizer. Fields, exact matches and REG2025's
    score use the reports verbatim. `bootstrap` resamples of the slides give 95 % percentile intervals.
    `with_meteor=False` needs no Java. `timeout_s` limits each Java run.

    Raises InvalidInputError (`evaluation-no-pairs`, `evaluation-tokenizer-unknown`,
    `evaluation-bootstrap-invalid`, `evaluation-part-unknown`) and FatalError
    (`evaluation-java-*`, `evaluation-package-missing`, `evaluation-part-missing`).
    """
    settings = _Settings(tokenize, bootstrap, seed, with_meteor, parts or RegParts(), timeout_s)
    _check(pairs, settings)
    references, predictions = [p.reference for p in pairs], [p.prediction for p in pairs]
    scored = [
        *_captions(references, predictions, settings),
        _reg(references, predictions, settings.parts),
        _exact(references, predictions),
    ]
    fields = compare_fields([parse_report(t) for t in references], [parse_report(t) for t in predictions])
    statistics = [*(group.statistic for group in scored), fields.statistic()]
    estimates = estimate(statistics, len(pairs), resamples=bootstrap, seed=seed)
    return _result(pairs, scored, fields, estimates, settings)


def _check(pairs: Sequence[Pair], settings: _Settings) -> None:
    if not pairs:
        raise InvalidInputError(
            "evaluation-no-pairs", "There are no reports to score.", hint="Provide at least one."
        )
    if settings.tokenize not in TOKENIZERS:
        raise InvalidInputError(
            "evaluation-tokenizer-unknown",
            f"There is no tokenizer {settings.tokenize!r}.",
            hint=f"Use one of: {', '.join(TOKENIZERS)}.",
        )
    if settings.bootstrap < 0:
        raise InvalidInputError(
            "evaluation-bootstrap-invalid",
            f"{settings.bootstrap} is not a number of bootstrap resamples.",
            hint="Use 0 (no intervals) or more; 1000 is usual.",
        )


def _captions(references: list[str], predictions: list[str], settings: _Settings) -> list[_Scored]:
    if settings.tokenize == "ptb":
        references = ptb_tokenize(references, timeout_s=settings.timeout_s)
        predictions = ptb_tokenize(predictions, timeout_s=settings.timeout_s)
    counts = bleu_statistics(references, predictions)
    subsequences = rouge_l(references, predictions)[:, None]
    groups = [
        _Scored(additive(BLEU_NAMES, counts, bleu_from_totals), bleu_from_totals(counts)),
        _Scored(mean((ROUGE_NAME,), subsequences), subsequences),
    ]
    if settings.with_meteor:
        groups.insert(1, _meteor(references, predictions, settings.timeout_s))
    return groups


def _meteor(references: list[str], predictions: list[str], timeout_s: float | None) -> _Scored:
    counts = meteor_statistics(references, predictions, timeout_s=timeout_s)
    statistic = additive((METEOR_NAME,), meteor_counts(counts), meteor_from_totals)
    return _Scored(statistic, meteor_from_totals(counts))


def _reg(references: list[str], predictions: list[str], parts: RegParts) -> _Scored:
    scores = reg2025_scores(references, predictions, parts)
    return _Scored(reg2025(scores), scores)


def _exact(references: list[str], predictions: list[str]) -> _Scored:
    same = [r.split() == p.split() for r, p in zip(references, predictions, strict=True)]
    values = np.array(same, dtype=np.float64)[:, None]
    return _Scored(mean((EXACT,), values), values)


def _result(
    pairs: Sequence[Pair],
    scored: Sequence[_Scored],
    fields: FieldTable,
    estimates: dict[str, Estimate],
    settings: _Settings,
) -> EvaluationResult:
    names = tuple(name for group in scored for name in group.statistic.names)
    return EvaluationResult(
        ids=tuple(pair.id for pair in pairs),
        tokenize=settings.tokenize,
        metrics={name: estimates[name] for name in (*names, ALL_RIGHT)},
        fields=fields.scores(estimates),
        parts=settings.parts,
        resamples=settings.bootstrap,
        seed=settings.seed,
        notes=tuple(_notes(pairs, settings)),
        case_names=names,
        cases=np.concatenate([group.cases for group in scored], axis=1),
    )


def _notes(pairs: Sequence[Pair], settings: _Settings) -> list[str]:
    notes, parts = [], settings.parts
    if not parts.comparable:
        notes.append(
            f"{REG2025_NAMES[0]} was computed with the parts {parts.entities!r} and {parts.embedding!r}: "
            "not comparable with the challenge's leaderboard."
        )
    broken = sum("\n" in text or "\r" in text for p in pairs for text in (p.reference, p.prediction))
    if broken and settings.tokenize == "none":
        notes.append(
            f"{broken} texts contain line breaks. METEOR reads them as spaces; ROUGE-L splits only at single "
            "spaces, so a line break stays inside a word."
        )
    blank = sum(not pair.prediction.strip() for pair in pairs)
    if blank:
        notes.append(f"{blank} predictions are blank and count as wrong.")
    unknown = sum(not pair.reference.strip() for pair in pairs)
    if unknown:
        notes.append(f"{unknown} references are blank: no prediction can be right there.")
    if not settings.with_meteor:
        notes.append("METEOR was left out.")
    return notes

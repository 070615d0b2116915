"""Scoring pairs of reports: coco-caption's metrics, REG2025's score, fields, exact matches, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation import meteor, rouge
from histgen_lib.evaluation.bleu import NAMES as BLEU_NAMES
from histgen_lib.evaluation.bleu import bleu_from_totals, bleu_statistics
from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, additive, estimate, mean
from histgen_lib.evaluation.csv_pairs import Pair
from histgen_lib.evaluation.fields import ALL_RIGHT, FieldTable, compare_fields
from histgen_lib.evaluation.ptb import ptb_tokenize
from histgen_lib.evaluation.reg2025 import NAMES as REG_NAMES
from histgen_lib.evaluation.reg2025 import RegParts, reg2025, reg2025_scores
from histgen_lib.evaluation.result import EvaluationResult
from histgen_lib.text.synoptic import parse_report

TOKENIZERS = ("none", "ptb")
EXACT = "exact_report"


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

    `tokenize`: "none" hands the texts over whole, as HistGen's own evaluation does (BLEU splits at white
    space, ROUGE-L at single spaces); "ptb" is coco-caption's tokenizer. Fields, exact matches and REG2025's
    score look at the reports as written. `bootstrap` resamples of the slides give 95 % percentile intervals.
    `with_meteor=False` needs no Java. `timeout_s` bounds each Java run.

    Raises InvalidInputError (`evaluation-no-pairs`, `evaluation-tokenizer-unknown`,
    `evaluation-bootstrap-invalid`, `evaluation-part-unknown`) and FatalError
    (`evaluation-java-*`, `evaluation-package-missing`, `evaluation-part-missing`).
    """
    _check(pairs, tokenize, bootstrap)
    chosen = parts or RegParts()
    references, predictions = [p.reference for p in pairs], [p.prediction for p in pairs]
    scored = [
        *_captions(references, predictions, tokenize, with_meteor, timeout_s),
        _reg(references, predictions, chosen),
        _exact(references, predictions),
    ]
    fields = compare_fields([parse_report(t) for t in references], [parse_report(t) for t in predictions])
    statistics = [*(group.statistic for group in scored), fields.statistic()]
    estimates = estimate(statistics, len(pairs), resamples=bootstrap, seed=seed)
    return _result(pairs, scored, fields, estimates, (tokenize, bootstrap, seed, chosen, with_meteor))


def _check(pairs: Sequence[Pair], tokenize: str, bootstrap: int) -> None:
    if not pairs:
        raise InvalidInputError(
            "evaluation-no-pairs", "There are no reports to score.", hint="Give at least one."
        )
    if tokenize not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise InvalidInputError(
            "evaluation-tokenizer-unknown", f"There is no tokenizer {tokenize!r}.", hint=f"Known: {known}."
        )
    if bootstrap < 0:
        raise InvalidInputError(
            "evaluation-bootstrap-invalid",
            f"{bootstrap} is not a number of bootstrap resamples.",
            hint="Give 0 (no intervals) or more; 1000 is usual.",
        )


def _captions(
    references: list[str], predictions: list[str], tokenize: str, with_meteor: bool, timeout_s: float | None
) -> list[_Scored]:
    if tokenize == "ptb":
        references = ptb_tokenize(references, timeout_s=timeout_s)
        predictions = ptb_tokenize(predictions, timeout_s=timeout_s)
    counts = bleu_statistics(references, predictions)
    subsequences = rouge.rouge_l(references, predictions)[:, None]
    groups = [
        _Scored(additive(BLEU_NAMES, counts, bleu_from_totals), bleu_from_totals(counts)),
        _Scored(mean((rouge.NAME,), subsequences), subsequences),
    ]
    if with_meteor:
        groups.insert(1, _meteor(references, predictions, timeout_s))
    return groups


def _meteor(references: list[str], predictions: list[str], timeout_s: float | None) -> _Scored:
    counts = meteor.meteor_statistics(references, predictions, timeout_s=timeout_s)
    statistic = additive((meteor.NAME,), meteor.additive_counts(counts), meteor.meteor_from_totals)
    return _Scored(statistic, meteor.meteor_from_totals(counts))


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
    settings: tuple[str, int, int, RegParts, bool],
) -> EvaluationResult:
    tokenize, bootstrap, seed, parts, with_meteor = settings
    names = tuple(name for group in scored for name in group.statistic.names)
    return EvaluationResult(
        ids=tuple(pair.id for pair in pairs),
        tokenize=tokenize,
        metrics={name: estimates[name] for name in (*names, ALL_RIGHT)},
        fields=fields.scores(estimates),
        parts=parts,
        resamples=bootstrap,
        seed=seed,
        notes=tuple(_notes(pairs, tokenize, parts, with_meteor)),
        case_names=names,
        cases=np.concatenate([group.cases for group in scored], axis=1),
    )


def _notes(pairs: Sequence[Pair], tokenize: str, parts: RegParts, with_meteor: bool) -> list[str]:
    notes = []
    if not parts.comparable:
        notes.append(
            f"{REG_NAMES[0]} was computed with the parts {parts.entities!r} and {parts.embedding!r}: "
            "not comparable with the challenge's leaderboard."
        )
    broken = sum("\n" in text or "\r" in text for p in pairs for text in (p.reference, p.prediction))
    if broken and tokenize == "none":
        notes.append(
            f"{broken} texts hold line breaks. METEOR reads them as spaces; ROUGE-L splits at single spaces "
            "only, so a line break stays inside a word."
        )
    blank = sum(not pair.prediction.strip() for pair in pairs)
    if blank:
        notes.append(f"{blank} predictions are blank and count as wrong.")
    untrue = sum(not pair.reference.strip() for pair in pairs)
    if untrue:
        notes.append(f"{untrue} references are blank; nothing can be right there.")
    if not with_meteor:
        notes.append("METEOR was left out.")
    return notes

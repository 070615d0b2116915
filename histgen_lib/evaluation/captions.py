"""coco-caption's metrics: BLEU, ROUGE-L and METEOR 1.5.

BLEU (Papineni et al. 2002) and ROUGE-L (Lin 2004) have coco-caption's smoothing constants, brevity penalty
and weights. For METEOR (Denkowski & Lavie 2014) the published jar aligns, and the formula on top is computed
here: the jar returns 23 counts per pair, which add up over slides, so one run of it serves the corpus score,
each report's score and every bootstrap resample.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from histgen_lib.evaluation.bootstrap import Floats
from histgen_lib.evaluation.java import METEOR_JAR, jar_path, java_failure, run_java

BLEU_NAMES = ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4")
_ORDERS = 4
# coco-caption's constants: the first keeps 0/0 at (nearly) zero, the second keeps a division defined.
_TINY = 1e-15
_SMALL = 1e-9


def bleu_statistics(references: Sequence[str], predictions: Sequence[str]) -> Floats:
    """Count what BLEU depends on, float64[n, 10]: prediction length, reference length, matches, n-grams.

    Words are separated by white space of any kind. Columns 2–5 hold the clipped matches of orders 1–4,
    columns 6–9 the number of n-grams in the prediction.
    """
    rows = [_counts(reference, text) for reference, text in zip(references, predictions, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * _ORDERS)


def bleu_from_totals(totals: Floats) -> Floats:
    """Compute BLEU-1…4, float64[B, 4], from summed counts float64[B, 10] (`bleu_statistics`)."""
    length, reference_length = totals[:, 0], totals[:, 1]
    precisions = (totals[:, 2 : 2 + _ORDERS] + _TINY) / (totals[:, 2 + _ORDERS :] + _SMALL)
    means = np.cumprod(precisions, axis=1) ** (1.0 / np.arange(1, _ORDERS + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    scores: Floats = means * penalty[:, None]
    return scores


def _counts(reference: str, prediction: str) -> list[int]:
    words, reference_words = prediction.split(), reference.split()
    orders = range(1, _ORDERS + 1)
    matches = [(_ngrams(words, n) & _ngrams(reference_words, n)).total() for n in orders]
    possible = [max(0, len(words) - n + 1) for n in orders]
    return [len(words), len(reference_words), *matches, *possible]


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


ROUGE_NAME = "ROUGE_L"
_BETA_SQUARED = 1.2**2  # coco-caption's weight of recall against precision


def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> Floats:
    """Compute ROUGE-L of each pair, float64[n]; the corpus value is their mean.

    Words are split at single spaces, as in coco-caption: two spaces in a row make an empty word, a line break
    stays inside its word, and the empty text is one empty word.
    """
    pairs = zip(references, predictions, strict=True)
    return np.array(
        [_score(reference.split(" "), text.split(" ")) for reference, text in pairs], dtype=np.float64
    )


def common_subsequence_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence, one big-integer step per item (Hyyrö 2004)."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for item in second:
        hits = row & places.get(item, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(first) - row.bit_count()


def _score(reference: Sequence[str], words: Sequence[str]) -> float:
    common = common_subsequence_length(reference, words)
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(reference)
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


METEOR_NAME = "METEOR"
STATISTICS = 23

# METEOR 1.5, English, ranking task: alpha, beta, gamma, delta; weights of exact, stem, synonym, paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])

# The jar's order of counts: four lengths, then four numbers a stage, then chunks and matched words.
_TEST_LENGTH, _REFERENCE_LENGTH, _TEST_FUNCTION, _REFERENCE_FUNCTION = range(4)
_STAGES = slice(4, 20)
_CHUNKS, _TEST_MATCHES, _REFERENCE_MATCHES = 20, 21, 22

_LINE_BREAK = re.compile(r"\r\n|\r|\n")


def meteor_statistics(
    references: Sequence[str], predictions: Sequence[str], *, timeout_s: float | None = None
) -> Floats:
    """Get the jar's 23 counts for each pair, float64[n, 23].

    A line break counts as a space: the jar reads one pair per line. "|||", its separator, is removed from
    predictions, and in a reference separates alternatives, as in coco-caption. Equal pairs are scored once.
    `timeout_s` defaults to five minutes plus 1 s a distinct pair. Raises FatalError (`evaluation-java-*`,
    `evaluation-package-missing`).
    """
    lines = [_request(reference, text) for reference, text in zip(references, predictions, strict=True)]
    distinct = list(dict.fromkeys(lines))
    if not distinct:
        return np.zeros((0, STATISTICS))
    limit_s = 300.0 + len(distinct) if timeout_s is None else timeout_s
    answers = dict(zip(distinct, _ask(distinct, limit_s), strict=True))
    return np.stack([answers[line] for line in lines])


def meteor_counts(counts: Floats) -> Floats:
    """Return the counts as the jar adds them: a perfect report in one chunk adds no chunk."""
    summable = counts.copy()
    summable[_in_one_piece(counts), _CHUNKS] = 0.0
    return summable


def meteor_from_totals(totals: Floats) -> Floats:
    """Compute METEOR float64[B, 1] of summed counts float64[B, 23]; 0 where undefined, as in the jar."""
    stages = totals[:, _STAGES].reshape(-1, 4, 4)  # a stage's content, then function words; test, reference
    test = totals[:, _TEST_LENGTH], totals[:, _TEST_FUNCTION]
    reference = totals[:, _REFERENCE_LENGTH], totals[:, _REFERENCE_FUNCTION]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = _share(stages[:, :, 0], stages[:, :, 2], *test)
        recall = _share(stages[:, :, 1], stages[:, :, 3], *reference)
        harmonic = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        words = (totals[:, _TEST_MATCHES] + totals[:, _REFERENCE_MATCHES]) / 2
        fragments = np.where(_in_one_piece(totals), 0.0, totals[:, _CHUNKS] / words)
        score = harmonic * (1 - _GAMMA * fragments**_BETA)
    defined: Floats = np.maximum(np.nan_to_num(score, nan=0.0), 0.0)[:, None]
    return defined


def _share(content: Floats, function: Floats, length: Floats, function_words: Floats) -> Floats:
    matched = (content @ _STAGE_WEIGHTS) * _DELTA + (function @ _STAGE_WEIGHTS) * (1 - _DELTA)
    share: Floats = matched / (_DELTA * (length - function_words) + (1 - _DELTA) * function_words)
    return share


def _in_one_piece(counts: Floats) -> NDArray[np.bool_]:
    stages = counts[:, _STAGES].reshape(-1, 4, 4)
    test = stages[:, :, 0].sum(1) + stages[:, :, 2].sum(1)
    reference = stages[:, :, 1].sum(1) + stages[:, :, 3].sum(1)
    whole = (test == counts[:, _TEST_LENGTH]) & (reference == counts[:, _REFERENCE_LENGTH])
    pieces: NDArray[np.bool_] = whole & (counts[:, _CHUNKS] == 1)
    return pieces


def _request(reference: str, prediction: str) -> str:
    # coco-caption's own two replacements, in its order, on the prediction only.
    text = prediction.replace("|||", "").replace("  ", " ")
    return _LINE_BREAK.sub(" ", f"SCORE ||| {reference} ||| {text}")


def _ask(lines: Sequence[str], timeout_s: float) -> list[Floats]:
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
    arguments = ["-Xmx2G", "-jar", str(jar_path(METEOR_JAR)), *options]
    answers = run_java(arguments, stdin=data, timeout_s=timeout_s).splitlines()
    if len(answers) != len(lines):
        raise java_failure(f"METEOR answered {len(answers)} of {len(lines)} pairs")
    return [_parse(answer) for answer in answers]


def _parse(answer: str) -> Floats:
    try:
        counts = np.array([float(word) for word in answer.split()], dtype=np.float64)
    except ValueError as error:
        raise java_failure(f"METEOR answered {answer[:80]!r}") from error
    if counts.size != STATISTICS:
        raise java_failure(f"METEOR answered {counts.size} counts, not {STATISTICS}")
    return counts

"""Agreement with coco-caption's own Python on any text: the promise is 1e-4, the tests require 1e-9."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from histgen_lib.evaluation import Pair, evaluate_pairs
from histgen_lib.evaluation.captions import (
    bleu_from_totals,
    bleu_statistics,
    meteor_counts,
    meteor_from_totals,
    meteor_statistics,
    rouge_l,
)
from histgen_lib.evaluation.java import ptb_tokenize

Texts = list[str]
TOLERANCE = 1e-9


def _by_id(texts: Texts) -> dict[int, list[str]]:
    return {number: [text] for number, text in enumerate(texts)}


def _coco_tokens(texts: Texts) -> Texts:
    found = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(texts)})
    return [found[number][0] for number in range(len(texts))]


@pytest.fixture(scope="module")
def sides(soup: list[tuple[str, str]]) -> tuple[Texts, Texts]:
    return [reference for reference, _ in soup], [prediction for _, prediction in soup]


@pytest.fixture(scope="module")
def coco_meteor() -> Iterator[Meteor]:
    scorer = Meteor()
    yield scorer
    del scorer


@pytest.fixture(scope="module")
def tokenized(sides: tuple[Texts, Texts]) -> tuple[Texts, Texts]:
    return ptb_tokenize(sides[0]), ptb_tokenize(sides[1])


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> tuple[Texts, Texts]:
    """60 real reports on one line each, half of them paired with another report of the collection."""
    splits = json.loads((shared_dir / "reports" / "reg2025_reports.json").read_text())
    reports = sorted({" ".join(row["report"].split()) for rows in splits.values() for row in rows})
    rng = random.Random(7)
    references = rng.sample(reports, 60)
    return references, [rng.choice([reference, rng.choice(reports)]) for reference in references]


def test_bleu_equals_coco_captions_for_the_corpus_and_for_every_report(
    sides: tuple[Texts, Texts], tokenized: tuple[Texts, Texts]
) -> None:
    for references, predictions in (sides, tokenized):
        corpus, each = Bleu(4).compute_score(_by_id(references), _by_id(predictions), verbose=0)
        counts = bleu_statistics(references, predictions)
        np.testing.assert_allclose(bleu_from_totals(counts.sum(0, keepdims=True))[0], corpus, atol=TOLERANCE)
        np.testing.assert_allclose(bleu_from_totals(counts).T, each, atol=TOLERANCE)


@pytest.mark.parametrize(("reference", "prediction"), [("", ""), ("a b c", ""), ("", "a b c"), ("a", "a")])
def test_bleu_equals_coco_captions_where_a_whole_file_has_no_words(reference: str, prediction: str) -> None:
    corpus, _ = Bleu(4).compute_score({0: [reference]}, {0: [prediction]}, verbose=0)
    ours = bleu_from_totals(bleu_statistics([reference], [prediction]))[0]
    np.testing.assert_allclose(ours, corpus, rtol=1e-9, atol=1e-30)


def test_rouge_l_equals_coco_captions_for_every_report(
    sides: tuple[Texts, Texts], tokenized: tuple[Texts, Texts]
) -> None:
    for references, predictions in (sides, tokenized):
        _, each = Rouge().compute_score(_by_id(references), _by_id(predictions))
        np.testing.assert_allclose(rouge_l(references, predictions), each, atol=TOLERANCE)


def test_rouge_l_of_texts_with_line_breaks_equals_coco_captions() -> None:
    references, predictions = ["Breast;\n  Benign", "a\nb c"], ["Breast; Benign", "a b\nc"]
    _, each = Rouge().compute_score(_by_id(references), _by_id(predictions))
    np.testing.assert_allclose(rouge_l(references, predictions), each, atol=TOLERANCE)


def test_ptb_tokens_equal_coco_captions(sides: tuple[Texts, Texts], tokenized: tuple[Texts, Texts]) -> None:
    for texts, ours in zip(sides, tokenized, strict=True):
        assert ours == _coco_tokens(texts)


def test_ptb_tokens_of_blank_and_multiline_texts_equal_coco_captions() -> None:
    texts = ["", "Breast;\n  Benign etc.\n", "", "The END.", "", ""]
    assert ptb_tokenize(texts) == _coco_tokens(texts)


def test_ptb_keeps_rows_apart_if_texts_contain_other_line_breaks() -> None:
    breaks = "\r\n\v\f\u2028\u2029"
    assert ptb_tokenize([f"one{breaks}two", "three"]) == ["one two", "three"]


FLAT, BROKEN = "invasive carcinoma grade 2", "invasive carcinoma\r\ngrade\n2"
BROKEN_LINES = ([FLAT, BROKEN, "\rother", FLAT], [BROKEN, FLAT, "\n", FLAT])


@pytest.fixture(scope="module")
def counts(sides: tuple[Texts, Texts], tokenized: tuple[Texts, Texts]) -> list[np.ndarray]:
    """METEOR's counts of the raw pairs, the tokenized ones and `BROKEN_LINES`, from one run of the jar."""
    references, predictions = ([*sides[n], *tokenized[n], *BROKEN_LINES[n]] for n in (0, 1))
    found = meteor_statistics(references, predictions)
    return np.split(found, [len(sides[0]), 2 * len(sides[0])])


def test_meteor_equals_coco_captions_for_the_corpus_and_for_every_report(
    sides: tuple[Texts, Texts], tokenized: tuple[Texts, Texts], counts: list[np.ndarray], coco_meteor: Meteor
) -> None:
    for (references, predictions), part in zip((sides, tokenized), counts, strict=False):
        corpus, each = coco_meteor.compute_score(_by_id(references), _by_id(predictions))
        totals = meteor_counts(part).sum(0, keepdims=True)
        np.testing.assert_allclose(meteor_from_totals(totals), corpus, atol=TOLERANCE)
        np.testing.assert_allclose(meteor_from_totals(part)[:, 0], each, atol=TOLERANCE)


def test_meteor_reads_line_breaks_as_spaces_and_scores_equal_pairs_alike(counts: list[np.ndarray]) -> None:
    broken = counts[2]
    np.testing.assert_array_equal(broken[0], broken[1])
    np.testing.assert_array_equal(broken[0], broken[3])
    assert meteor_from_totals(broken)[:, 0].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("tokenize", ["none", "ptb"])
def test_an_evaluation_reports_coco_captions_numbers(
    real: tuple[Texts, Texts], tokenize: str, coco_meteor: Meteor
) -> None:
    """METEOR is in one of the two: its 5 s start-up is the same for both."""
    pairs = [Pair(str(n), r, p) for n, (r, p) in enumerate(zip(*real, strict=True))]
    references, predictions = (_coco_tokens(side) if tokenize == "ptb" else side for side in real)
    ours = evaluate_pairs(pairs, tokenize=tokenize, with_meteor=tokenize == "ptb").metrics
    gold, found = _by_id(references), _by_id(predictions)
    names = ["BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "ROUGE_L"]
    expected = [*Bleu(4).compute_score(gold, found, verbose=0)[0], Rouge().compute_score(gold, found)[0]]
    if tokenize == "ptb":
        names.append("METEOR")
        expected.append(coco_meteor.compute_score(gold, found)[0])
    np.testing.assert_allclose([ours[name].value for name in names], expected, atol=TOLERANCE)

"""Retrieval figures: worked by hand, against scikit-learn, and chance against every order there is."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.retrieval import Ranked, rank, score_ranked
from histgen_lib.evaluation.retrieval.metrics import prompt_jaccard


def _ranked(*relevant: str, found_of: int = 3, gallery: int = 10) -> Ranked:
    """Make rankings of strings such as "+-+-+"."""
    table = np.array([[sign == "+" for sign in row] for row in relevant])
    count = len(relevant)
    order = np.tile(np.arange(table.shape[1]), (count, 1))
    return Ranked(np.arange(count), order, table, np.full(count, found_of), gallery)


@pytest.mark.parametrize(
    ("hits", "figure", "expected"),
    [
        ("--+--", "P@3", 1),
        ("---++", "P@3", 0),
        ("+-+--", "ACC@5", 2 / 5),
        ("+-+--", "MAP@5", (1 / 1 + 2 / 3) / 2),
        ("+----", "MAP@5", 1),
        ("----+", "MAP@5", 1 / 5),
        ("-----", "MAP@5", 0),
        ("+-+--", "recall@5", 2 / 3),
        ("+-+--", "recall@1", 1 / 3),
        ("+-+--", "nDCG@5", (1 + 1 / 2) / (1 + 1 / np.log2(3) + 1 / 2)),
        ("-+---", "nDCG@1", 0),
    ],
)
def test_a_figure_worked_by_hand(hits: str, figure: str, expected: float) -> None:
    score = score_ranked(_ranked(hits), (1, 3, 5))[figure]
    assert score.estimate.value == pytest.approx(expected)


def test_figures_are_means_over_the_queries() -> None:
    assert score_ranked(_ranked("+----", "-----"), (5,))["MAP@5"].estimate.value == pytest.approx(0.5)


def _drawn(queries: int = 40, gallery: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.normal(size=(queries, gallery)), rng.random((queries, gallery)) < 0.2


def test_ndcg_is_that_of_scikit_learn() -> None:
    scores, relevant = _drawn()
    ranked = rank(scores, relevant, 10)
    expected = ndcg_score(relevant[ranked.queries].astype(float), scores[ranked.queries], k=10)
    assert score_ranked(ranked, (10,))["nDCG@10"].estimate.value == pytest.approx(expected)


def test_map_over_the_whole_gallery_is_the_average_precision_of_scikit_learn() -> None:
    scores, relevant = _drawn()
    ranked = rank(scores, relevant, 30)
    rows = zip(relevant[ranked.queries], scores[ranked.queries], strict=True)
    expected = np.mean([average_precision_score(labels, row) for labels, row in rows])
    assert score_ranked(ranked, (30,))["MAP@30"].estimate.value == pytest.approx(expected)


@pytest.mark.parametrize("found", [1, 2, 4, 6])
def test_chance_is_the_mean_over_every_order_of_the_gallery(found: int) -> None:
    labels = [True] * found + [False] * (6 - found)
    orders = list(dict.fromkeys(permutations(labels)))
    every = _ranked(
        *("".join("+" if one else "-" for one in order) for order in orders), found_of=found, gallery=6
    )
    for name, score in score_ranked(every, (1, 3, 5)).items():
        assert score.chance == pytest.approx(score.estimate.value), name


def test_equal_scores_keep_the_order_of_the_gallery() -> None:
    ranked = rank(np.zeros((1, 4)), np.array([[False, True, False, True]]), 4)
    assert ranked.order.tolist() == [[0, 1, 2, 3]]


def test_a_query_with_nothing_to_find_is_left_out() -> None:
    ranked = rank(np.ones((2, 3)), np.array([[False] * 3, [True] * 3]), 1)
    assert ranked.queries.tolist() == [1]


@pytest.mark.parametrize(("relevant", "depth"), [(np.zeros((2, 3), bool), 1), (np.ones((2, 3), bool), 4)])
def test_nothing_to_score_is_an_error(relevant: np.ndarray, depth: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        rank(np.ones((2, 3)), relevant, depth)
    assert caught.value.code == "evaluation-retrieval-empty"


def test_jaccard_compares_the_sets_of_prompts() -> None:
    one = np.array([[True, True, False], [False, False, False]])
    other = np.array([[True, False, True], [False, False, False]])
    assert prompt_jaccard(one, other).tolist() == [[1 / 3, 0], [0, 1]]


def test_jaccard_is_averaged_over_the_first_hits() -> None:
    ranked = rank(np.array([[3.0, 2.0, 1.0]]), np.array([[True, False, False]]), 2)
    score = score_ranked(ranked, (2,), similarity=np.array([[1.0, 0.5, 0.0]]))["Jaccard@2"]
    assert (score.estimate.value, score.chance) == (0.75, 0.5)


def test_intervals_resample_the_queries() -> None:
    scores, relevant = _drawn()
    ranked = rank(scores, relevant, 5)
    score = score_ranked(ranked, (5,), bootstrap=200, seed=1)["ACC@5"].estimate
    again = score_ranked(ranked, (5,), bootstrap=200, seed=1)["ACC@5"].estimate
    assert score == again
    assert score.low < score.value < score.high

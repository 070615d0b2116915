"""Late interaction, and the searches without training that FGCR is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.evaluation.retrieval import Collection, Sought, score_tasks, similarities
from histgen_lib.evaluation.retrieval.baselines import barcodes, mean_pooled, mosaic, patch_set_scores
from histgen_lib.evaluation.retrieval.tasks import max_sim


def _grid(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * 256


def test_max_sim_is_the_mean_over_the_query_of_its_best_regions() -> None:
    query = np.array([[1, 0], [0, 1]], dtype=np.float32)
    gallery = [np.array([[1, 0], [0.6, 0.8]], dtype=np.float32), np.array([[-1, 0]], dtype=np.float32)]
    assert max_sim([query], gallery)[0] == pytest.approx([(1 + 0.8) / 2, (-1 + 0) / 2])


def test_every_task_compares_what_its_name_says() -> None:
    """One query; what it finds first differs from task to task."""
    first, second = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    queries = Collection(first, second, [second])
    gallery = Collection(np.concatenate([first, second]), np.concatenate([second, first]), [first, second])
    best = {task: int(table[0].argmax()) for task, table in similarities(queries, gallery).items()}
    assert best == {
        "image→image": 0, "image→text": 1, "text→image": 1, "text→text": 0,
        "regions→regions": 1, "text→regions": 1,
    }  # fmt: skip
    relevant = np.array([[True, False]])
    scores = score_tasks(similarities(queries, gallery), Sought(relevant, depths=(1,)))
    assert scores.tasks["text→text"]["P@1"].estimate.value == 1
    assert scores.tasks["text→image"]["P@1"].estimate.value == 0


def test_a_search_without_words_has_one_task() -> None:
    slides = np.eye(2, dtype=np.float32)
    assert set(similarities(Collection(slides), Collection(slides))) == {"image→image"}


def test_a_mosaic_has_patches_of_every_kind_from_all_over_the_slide() -> None:
    """Two kinds of tiles in two halves; a few of each stand for the slide."""
    places = _grid(10)
    left = places[:, 0] < 5 * 256
    rng = np.random.default_rng(0)
    features = rng.normal(scale=0.01, size=(100, 6)) + np.where(left[:, None], 1, -1)
    rows = mosaic(features, places)
    assert 4 <= len(rows) < 40
    assert left[rows].any()
    assert not left[rows].all()
    assert np.array_equal(rows, mosaic(features, places))


def test_a_single_tile_is_its_own_mosaic() -> None:
    assert mosaic(np.ones((1, 4)), np.zeros((1, 2))).tolist() == [0]


def test_patch_sets_are_compared_by_the_median_of_the_smallest_hamming_distances() -> None:
    query = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    other = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
    assert patch_set_scores([query], [query, other]).tolist() == [[0, -1]]


def test_a_barcode_says_where_a_feature_rises() -> None:
    assert barcodes(np.array([[0.0, 2.0, 1.0, 1.0]])).tolist() == [[True, False, False]]


def test_mean_pooling_gives_unit_vectors() -> None:
    assert mean_pooled([np.array([[3.0, 0.0], [3.0, 8.0]])])[0] == pytest.approx([0.6, 0.8])

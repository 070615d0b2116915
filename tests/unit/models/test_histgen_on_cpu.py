"""Between its graphs, the CPU's way of running HistGen selects: exactly, and each word by itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from histgen_lib.models.histgen import HistGenConfig, on_cpu
from histgen_lib.models.histgen.on_cpu import CpuWords, all_but_best
from histgen_lib.models.histgen.serving import RECALL_ONNX, WORDS_ONNX
from histgen_lib.models.serving import Tensors


def best(scores: list[float], count: int) -> list[int]:
    """Return the places of the best scores."""
    return np.flatnonzero(~all_but_best(np.array([scores], dtype=np.float32), count)[0]).tolist()


def test_the_best_are_kept() -> None:
    assert best([3, 1, 4, 1.5, 9], 2) == [2, 4]


@pytest.mark.parametrize("count", [5, 6])
def test_all_are_kept_where_so_many_are_wanted(count: int) -> None:
    assert best([3, 1, 4, 1, 5], count) == [0, 1, 2, 3, 4]


def test_of_those_that_tie_for_the_last_place_the_first_are_kept() -> None:
    assert best([2, 7, 2, 1, 2, 2], 3) == [0, 1, 2]
    assert best([2, 2, 2, 2], 3) == [0, 1, 2]


def test_every_row_keeps_exactly_so_many() -> None:
    """With few distinct scores, so that nearly every row has ties."""
    scores = np.random.default_rng(0).integers(0, 6, size=(3, 50, 40)).astype(np.float32)
    found = ~all_but_best(scores, 13)
    assert (found.sum(axis=-1) == 13).all()
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :13]
    assert np.take_along_axis(found, order, axis=-1).all()


def test_what_is_no_number_is_kept() -> None:
    """Then no number comes of it, and decoding refuses that."""
    assert best([3, float("nan"), 4, 1.5, 9], 2) == [1, 4]
    assert 1 in best([3, float("nan"), 4, float("nan"), 9], 2)


class Recording:
    """A graph that records what it is run on."""

    def __init__(self, answer: Callable[[Tensors], dict[str, Any]]) -> None:
        self.answer = answer
        self.runs: list[Tensors] = []

    def run(self, inputs: Tensors) -> dict[str, Any]:
        self.runs.append(inputs)
        return self.answer(inputs)


def some_words() -> tuple[CpuWords, Recording]:
    """Words whose vectors hold their token and their place."""

    def embed(inputs: Tensors) -> dict[str, Any]:
        tokens, place = inputs["tokens"], inputs["place"]
        embedded = np.stack([tokens, np.full_like(tokens, place[0])], axis=1).astype(np.float32)
        return {"embedded": embedded, "scores": np.zeros((2, len(tokens), 4), dtype=np.float32)}

    graph = Recording(embed)
    recall = Recording(lambda inputs: {"words": inputs["embedded"]})
    config = HistGenConfig(d_model=16, cmm_dim=16, cmm_size=4, topk=2, num_heads=2)
    return CpuWords(config, {WORDS_ONNX: graph, RECALL_ONNX: recall}), graph


def test_a_word_is_computed_once_for_each_place() -> None:
    words, graph = some_words()
    assert words.of([5, 7, 5], 3).tolist() == [[5, 3], [7, 3], [5, 3]]
    assert words.of([7, 6], 3).tolist() == [[7, 3], [6, 3]]
    assert words.of([7], 4).tolist() == [[7, 4]]
    assert words.of([5, 6, 7], 3).tolist() == [[5, 3], [6, 3], [7, 3]]
    assert [sorted(run["tokens"].tolist()) for run in graph.runs] == [[5, 7], [6], [7]]


def test_only_so_many_words_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cpu, "_WORDS_KEPT", 3)
    words, graph = some_words()
    for token in (1, 2, 3, 4, 1, 4):
        assert words.of([token], 0).tolist() == [[token, 0]]
    assert [run["tokens"].tolist() for run in graph.runs] == [[1], [2], [3], [4], [1]]


def test_several_threads_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cpu, "_WORDS_KEPT", 5)
    words, _ = some_words()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: words.of([1, 2, 3], place % 7).tolist(), range(400)))
    assert found == [[[1, place % 7], [2, place % 7], [3, place % 7]] for place in range(400)]

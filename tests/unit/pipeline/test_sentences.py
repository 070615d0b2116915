"""From tokens to sentences: spans, evidence and the report's confidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from histgen_lib.bags import Bag
from histgen_lib.pipeline.draft.sentences import (
    TOP_TILES,
    Generated,
    make_sentences,
    report_confidence,
    token_spans,
)
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.reliability import Calibration, EvidenceFigures
from histgen_lib.slides.settings import TilingSettings

WORDS = ["", "Colon, ", "biopsy:\n  ", "Adenocarcinoma\n  ", "- Grade: ", "2"]


class Tokens:
    """Ids are places in WORDS."""

    vocab_size = len(WORDS) - 1

    def decode(self, ids):
        return "".join(WORDS[i] for i in ids)


def model(**changes) -> ReportModel:
    values = {
        "folder": None,
        "tiling": TilingSettings(),
        "calibration": Calibration("temperature"),
        "domain": None,
        "domain_threshold": float("nan"),
        "abstention_threshold": 0.5,
        "sentence_threshold": 0.7,
        "report_statistic": "diagnosis",
        "evidence": EvidenceFigures({}),
    }
    return ReportModel(**(values | changes))


def bag(tiles: int = 6, places: bool = True) -> Bag:
    xy = np.stack([np.arange(tiles) * 512, np.zeros(tiles)], axis=1).astype(np.int32)
    return Bag(
        "s",
        np.zeros((tiles, 4), np.float16),
        xy,
        512.0 if places else float("nan"),
        256,
        0.5,
        0.25,
        (9, 9),
        "e",
        "",
    )


def generated() -> Generated:
    evidence = np.full((6, 6), 0.1, dtype=np.float32)
    evidence[np.arange(6), np.arange(6)] = 0.5
    logprobs = np.log(np.array([0.99, 0.98, 0.9, 0.95, 0.4, 1.0], dtype=np.float32))
    return Generated.from_tensors(
        {"tokens": np.array([1, 2, 3, 4, 5, 0]), "logprobs": logprobs, "evidence": evidence}, Tokens()
    )


def test_spans_of_tokens_tile_the_text():
    spans = token_spans([1, 2, 3, 4, 5], Tokens())

    assert [generated().text[a:b] for a, b in spans] == WORDS[1:]


def test_the_end_token_is_left_out():
    assert len(generated().spans) == len(generated().logprobs) == len(generated().evidence) == 5


def test_each_line_gets_the_evidence_and_confidence_of_its_own_tokens():
    sentences, weights = make_sentences(generated(), [bag()], model())

    assert [s.text for s in sentences] == ["Colon, biopsy:", "Adenocarcinoma", "- Grade: 2"]
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert weights[0].argmax() in (0, 1)
    assert (sentences[1].evidence[0].x, sentences[1].evidence[0].weight) == (2 * 512, 0.5)
    assert sentences[0].confidence == pytest.approx(0.99 * 0.98, abs=1e-4)
    assert [s.uncertain for s in sentences] == [False, False, True]


def test_evidence_is_the_strongest_tiles_in_order_and_ties_are_settled_by_place():
    sentences, _ = make_sentences(generated(), [bag()], model())
    weights = [tile.weight for tile in sentences[1].evidence]

    assert len(weights) == TOP_TILES
    assert weights == sorted(weights, reverse=True)
    assert [tile.x for tile in sentences[1].evidence[1:]] == [0, 512, 1536]


def test_a_bag_without_places_gives_no_evidence_tiles():
    sentences, _ = make_sentences(generated(), [bag(places=False)], model())

    assert all(s.evidence == () for s in sentences)


def test_report_confidence_is_that_of_the_diagnosis_line():
    sentences, _ = make_sentences(generated(), [bag()], model())
    fields = {"diagnosis": "Adenocarcinoma"}

    assert report_confidence(sentences, fields, "diagnosis") == pytest.approx(0.9, abs=1e-4)
    assert report_confidence(sentences, fields, "min") == pytest.approx(0.38, abs=1e-4)
    assert report_confidence(sentences, {}, "diagnosis") == pytest.approx(0.38, abs=1e-4)
    assert report_confidence([], {}, "diagnosis") == 0.0


def test_blank_text_has_no_sentences():
    empty = replace(generated(), text="")
    sentences, weights = make_sentences(empty, [bag()], model())

    assert sentences == ()
    assert weights.shape == (0, 6)


def test_the_evidence_of_a_field_comes_from_its_value_not_its_name():
    """Its name stands in every report; where the model looked while writing it says nothing."""
    tokens = [4, 5]
    spans = token_spans(tokens, Tokens())
    evidence = np.eye(2, 6, dtype=np.float32)
    generated = Generated("- Grade: 2", spans, np.zeros(2, np.float32), evidence)

    _, weights = make_sentences(generated, [bag()], model())

    assert weights[0].tolist() == evidence[1].tolist()

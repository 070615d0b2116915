"""Slides as the retrieval network is trained on them: parts of slides, and what two reports share."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_bags import SPAN_PX, planted_bag
from tiny_retrieval import tiny_config

from histgen_lib.bags import write_bag
from histgen_lib.models.fgcr.anchors import find_regions
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.words import Words
from histgen_lib.training.retrieval import embedding
from histgen_lib.training.retrieval.data import (
    Batcher,
    Seen,
    SlideExample,
    alike_by,
    augmented,
    places_of,
    random_box,
    seen_of,
    sentences_of,
)
from histgen_lib.training.retrieval.embedding import embed_slides, within
from histgen_lib.training.retrieval.settings import SlideAugment

BAG = planted_bag("planted", np.random.default_rng(2), 0, 1)
CONFIG = FgcrConfig(input_dim=BAG.features.shape[1])


def test_a_random_box_is_compact_and_holds_its_share() -> None:
    xy = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2).astype(np.int32)
    inside = random_box(xy, 0.25, np.random.default_rng(0))
    low, high = xy[inside].min(axis=0), xy[inside].max(axis=0)
    assert 100 <= inside.sum() <= 160
    assert inside.sum() == ((xy >= low) & (xy <= high)).all(axis=1).sum()


def test_the_same_generator_makes_the_same_changes() -> None:
    change = SlideAugment(box_chance=0.5, tile_dropout=0.2, feature_noise=0.1)
    one, other = (augmented(BAG, CONFIG, change, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1].boxes, other[1].boxes)


def test_a_slide_keeps_tiles_whatever_is_left_out() -> None:
    change = SlideAugment(box_chance=1.0, box_least=0.01, tile_dropout=0.99)
    for seed in range(20):
        features, regions = augmented(BAG, CONFIG, change, np.random.default_rng(seed))
        assert len(features) >= 4
        assert len(regions.rows) >= 1


def test_a_bag_without_places_is_a_square_of_tiles() -> None:
    bare = dataclasses.replace(BAG, span_px=float("nan"), xy=np.zeros_like(BAG.xy))
    xy, _ = places_of(bare)
    assert len(np.unique(xy, axis=0)) == len(bare)
    assert len(seen_of(bare, CONFIG)[1].rows) >= 1


@pytest.mark.parametrize("corner", [(0, 0), (SPAN_PX, SPAN_PX)])
def test_a_box_holds_the_tiles_whose_middles_lie_in_it(corner: tuple[int, int]) -> None:
    part = within(BAG, np.array([*corner, 2 * SPAN_PX, 2 * SPAN_PX], dtype=np.int32))
    near = ((BAG.xy >= corner) & (BAG.xy < np.array(corner) + 2 * SPAN_PX)).all(axis=1)
    assert near.any()
    assert np.array_equal(part.xy, BAG.xy[near])


def test_a_box_without_tiles_is_the_nearest_tile() -> None:
    part = within(BAG, np.array([99_000, 99_000, 10, 10], dtype=np.int32))
    assert len(part) == 1


def test_bags_on_disk_do_not_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "planted.parquet"
    write_bag(BAG, path)
    examples = [SlideExample("planted", "None.", path)]
    batcher = Batcher(examples, Words.train([]), (), CONFIG, SlideAugment(), 0.0, 0, torch.device("cpu"))
    features = weakref.ref(batcher.seen(0)[0])
    gc.collect()
    assert features() is None


def test_few_slides_are_in_memory_while_many_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number of tiles, with padding: 32 at once. No result differs from that of one alone."""
    monkeypatch.setattr(embedding, "_MOST_TILES", 1 << 10)
    network = Fgcr(tiny_config(4, 8)).eval()
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def slides(count: int) -> Iterator[Seen]:
        nonlocal most
        rng = np.random.default_rng(0)
        xy = np.stack(np.meshgrid(np.arange(8), np.arange(4)), axis=-1).reshape(-1, 2)
        for _ in range(count):
            features = rng.normal(size=(len(xy), 4)).astype(np.float32)
            alive.append(weakref.ref(features))
            most = max(most, sum(one() is not None for one in alive))
            yield features, find_regions(xy, 1.0, network.config)

    vectors, regions = embed_slides(network, slides(70))
    assert most <= 34
    assert (len(vectors), len(regions)) == (70, 70)
    alone = np.concatenate([embed_slides(network, [one])[0] for one in slides(70)])
    assert np.allclose(vectors, alone, atol=1e-5)


def test_reports_of_one_organ_and_diagnosis_are_of_a_kind() -> None:
    one = "Colon, biopsy:\n  Adenoma\n  - Grade: 1"
    other = "COLON, excision:\n  Adenoma\n  - Grade: 2"
    assert alike_by(one) == alike_by(other) != alike_by(one.replace("Adenoma", "Carcinoma"))
    assert alike_by("Nothing is said.") == ("Nothing is said.",)


def test_sentences_are_the_statements_each_once() -> None:
    assert sentences_of("Colon, biopsy:\n  Adenoma\n  Adenoma") == ["Colon, biopsy:", "Adenoma"]

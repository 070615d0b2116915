"""Batches: every slide once per epoch, reproducible, with the tiles in the right arrangement."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import planted_bags
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.bags import Bag, Maker, maker_of, write_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import tile_order
from histgen_lib.training.data import (
    BagAugment,
    Example,
    augment_rng,
    collate,
    plan_batches,
    prepare,
    require_same_encoder,
    share_of,
)


@pytest.fixture
def bag() -> Bag:
    return planted_bags.planted_bag("a", np.random.default_rng(3), 0, 1)


def _example(bag: Bag) -> Example:
    return Example(bag.slide_id, "", (Path("unused"),), (1,), held=(bag,))


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=40), batch=st.integers(1, 9))
def test_an_epoch_shows_every_slide_once(sizes: list[int], batch: int) -> None:
    shown = [row for rows in plan_batches(sizes, batch, 5, 2) for row in rows]
    assert sorted(shown) == list(range(len(sizes)))


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    sizes = list(range(100, 160))
    assert plan_batches(sizes, 4, 1, 3) == plan_batches(sizes, 4, 1, 3)
    assert plan_batches(sizes, 4, 1, 3) != plan_batches(sizes, 4, 1, 4)
    assert plan_batches(sizes, 1, 1, 3) != plan_batches(sizes, 1, 2, 3)


@given(count=st.integers(1, 20), world=st.integers(1, 9))
def test_every_process_gets_the_same_number_of_batches_and_none_is_left_out(count: int, world: int) -> None:
    """With unequal shares, processes would wait for each other forever."""
    batches = [[row] for row in range(count)]
    shares = [share_of(batches, rank, world) for rank in range(world)]
    assert {len(share) for share in shares} == {math.ceil(count / world)}
    assert {row for share in shares for rows in share for row in rows} == set(range(count))


def test_each_arrangement_orders_the_tiles(bag: Bag) -> None:
    raw = bag.features.astype(np.float32)
    assert np.array_equal(prepare(bag, "slide"), raw)
    assert np.array_equal(prepare(bag, "curve"), raw[tile_order(bag.xy, bag.span_px)])
    assert np.allclose(prepare(bag, "mean"), raw.mean(axis=0, keepdims=True))


def test_the_slides_of_a_case_follow_one_another_each_in_its_own_order(bag: Bag) -> None:
    other = planted_bags.planted_bag("b", np.random.default_rng(4), 1, 0)
    assert np.array_equal(
        prepare([bag, other], "curve"),
        np.concatenate([prepare(bag, "curve"), prepare(other, "curve")]),
    )
    raw = np.concatenate([bag.features, other.features]).astype(np.float32)
    assert np.array_equal(prepare([bag, other], "slide"), raw)
    assert np.allclose(prepare([bag, other], "mean"), raw.mean(axis=0, keepdims=True))


def test_tiles_without_places_stay_in_their_order(bag: Bag) -> None:
    placeless = dataclasses.replace(bag, xy=np.zeros_like(bag.xy), span_px=math.nan)
    assert np.array_equal(prepare(placeless, "curve"), bag.features.astype(np.float32))


def test_augmentation_repeats_for_a_slide_and_epoch_and_changes_with_them(bag: Bag) -> None:
    augment = BagAugment(tile_dropout=0.3, feature_noise=0.1, flips=True)
    first, again, later = (prepare(bag, "curve", augment, augment_rng(1, epoch, 5)) for epoch in (2, 2, 3))
    assert np.array_equal(first, again)
    assert first.shape != later.shape or not np.allclose(first, later)


def test_tile_dropout_never_leaves_a_slide_empty(bag: Bag) -> None:
    assert len(prepare(bag, "slide", BagAugment(tile_dropout=1.0), augment_rng(1, 0, 0))) == len(bag)


def test_padding_is_masked_and_targets_end_with_the_end_token() -> None:
    batch = collate([np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)], [(5, 6), (7,)])
    assert batch.features.shape == (2, 3, 2)
    assert batch.tile_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.inputs.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert batch.targets.tolist() == [[5, 6, 0], [7, 0, 0]]
    assert batch.target_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.features[1, 1:].abs().sum() == 0


def test_bags_of_two_encoders_are_not_mixed(bag: Bag) -> None:
    other = dataclasses.replace(bag, slide_id="b", encoder_sha256="1" * 64)
    require_same_encoder([_example(bag), _example(bag)])
    for examples, named in [([bag, other], None), ([bag], Maker("", "1" * 64, bag.features.shape[1]))]:
        with pytest.raises(InvalidInputError) as raised:
            require_same_encoder([_example(b) for b in examples], named)
        assert raised.value.code == "training-bags-differ"


def test_bags_without_a_digest_are_distinguished_by_encoder_name(bag: Bag) -> None:
    one, unnamed = (dataclasses.replace(bag, encoder_sha256="", encoder_name=name) for name in ("uni", ""))
    other = dataclasses.replace(one, encoder_name="conch")
    require_same_encoder([_example(unnamed), _example(one), _example(unnamed)])
    with pytest.raises(InvalidInputError, match="conch"):
        require_same_encoder([_example(unnamed), _example(one), _example(other)])


def test_one_digest_is_one_encoder_whatever_its_name(bag: Bag) -> None:
    require_same_encoder([_example(bag), _example(dataclasses.replace(bag, encoder_name="renamed"))])


def test_bags_of_one_encoder_with_two_settings_are_not_mixed(bag: Bag) -> None:
    """The same weights pool or resize otherwise, say; bags of before settings were recorded pass."""
    one, other = (dataclasses.replace(bag, encoder_settings=sign * 64) for sign in "12")
    require_same_encoder([_example(bag), _example(one), _example(bag)], maker_of(one))
    for examples, encoder in [([one, other], None), ([one], maker_of(other))]:
        with pytest.raises(InvalidInputError, match="other settings") as raised:
            require_same_encoder([_example(b) for b in examples], encoder)
        assert raised.value.code == "training-bags-differ"


def test_all_bags_on_disk_are_checked(bag: Bag, tmp_path: Path) -> None:
    bags = [bag] * 40 + [dataclasses.replace(bag, encoder_sha256="1" * 64)]
    for row, one in enumerate(bags):
        write_bag(one, tmp_path / f"{row}.parquet")
    paths = [(tmp_path / f"{row}.parquet",) for row in range(len(bags))]
    examples = [Example(str(row), "", path, (1,)) for row, path in enumerate(paths)]
    require_same_encoder(examples[:-1])
    with pytest.raises(InvalidInputError) as raised:
        require_same_encoder(examples)
    assert raised.value.code == "training-bags-differ"


def test_bags_must_be_as_wide_as_the_features_of_the_encoder_that_is_named(bag: Bag) -> None:
    """Files of other tools state no digest: their width alone may tell that --encoder is another one."""
    nameless = dataclasses.replace(bag, encoder_sha256="", encoder_name="")
    with pytest.raises(InvalidInputError) as raised:
        require_same_encoder([_example(nameless)], Maker("uni", "1" * 64, bag.features.shape[1] + 1))
    assert raised.value.code == "training-bags-differ"


def test_features_of_two_lengths_are_not_mixed(bag: Bag) -> None:
    nameless = dataclasses.replace(bag, encoder_sha256="")
    shorter = dataclasses.replace(nameless, features=bag.features[:, :-1])
    with pytest.raises(InvalidInputError) as raised:
        require_same_encoder([_example(nameless), _example(shorter)])
    assert raised.value.code == "training-bags-differ"
    with pytest.raises(InvalidInputError, match="different lengths"):
        collate([np.ones((1, 3), np.float32), np.ones((1, 2), np.float32)], [(1,), (1,)])

"""Curve order, prototypes and regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.layout import arrange, prototype_rows, tile_order

SPAN_PX = 512.4


def grid(side: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.stack([np.floor(columns * SPAN_PX), np.floor(rows * SPAN_PX)], axis=1).astype(np.int32)


@pytest.mark.parametrize("side", [1, 2, 8, 16, 32, 64, 512])
def test_a_full_square_is_walked_from_neighbour_to_neighbour(side: int) -> None:
    xy = grid(side)
    order = tile_order(xy, SPAN_PX)
    assert sorted(order) == list(range(side * side))
    steps = np.abs(np.diff(np.round(xy[order] / SPAN_PX), axis=0)).sum(axis=1)
    assert (steps == 1).all()


@pytest.mark.parametrize("side", [2, 4, 8, 16, 32, 64])
def test_a_larger_square_is_four_smaller_ones_and_the_axes_take_turns(side: int) -> None:
    """Quadrants in the order top left, bottom left, bottom right, top right of x and y as they are."""
    cells = np.round(grid(side)[tile_order(grid(side), SPAN_PX)] / SPAN_PX).astype(int)
    quadrants = (cells // (side // 2)).reshape(4, -1, 2)
    assert (quadrants == quadrants[:, :1]).all()
    assert quadrants[:, 0].tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]
    half = np.round(grid(side // 2)[tile_order(grid(side // 2), SPAN_PX)] / SPAN_PX).astype(int)
    assert (cells.reshape(4, -1, 2)[0] == half[:, ::-1]).all()


def test_tiles_that_share_a_cell_are_ordered_by_y_then_x_then_row() -> None:
    xy = np.array([[0, 0], [90, 5], [10, 7], [80, 5], [90, 5], [1000, 0], [500, 0]])
    assert tile_order(xy, 500).tolist() == [0, 3, 1, 4, 2, 6, 5]


def test_a_run_of_tiles_is_a_far_more_compact_patch_than_in_slide_order() -> None:
    xy = grid(30)
    by_curve = xy[tile_order(xy, SPAN_PX)]

    def spread(ordered: np.ndarray) -> float:
        return float(np.mean([run.std(axis=0).max() for run in np.array_split(ordered, 60)]))

    assert spread(by_curve) < 0.4 * spread(xy)


@given(
    st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)), min_size=1, max_size=60),
    st.integers(-(10**5), 10**5),
)
def test_order_is_a_permutation_and_does_not_depend_on_where_the_tissue_lies(
    corners: list[tuple[int, int]], shift: int
) -> None:
    xy = np.array(corners)
    order = tile_order(xy, SPAN_PX)
    assert sorted(order) == list(range(len(xy)))
    assert np.array_equal(order, tile_order(xy + shift, SPAN_PX))


def test_the_same_tiles_in_another_order_are_walked_the_same_way() -> None:
    xy = grid(9)
    shuffled = np.random.default_rng(0).permutation(xy)
    assert np.array_equal(xy[tile_order(xy, SPAN_PX)], shuffled[tile_order(shuffled, SPAN_PX)])


def test_the_order_of_no_tiles_is_empty() -> None:
    assert tile_order(np.zeros((0, 2)), SPAN_PX).shape == (0,)


@pytest.mark.parametrize("prototypes", [1, 2, 7, 32, 64, 512, 1000])
def test_prototypes_are_the_rows_that_torch_picks(prototypes: int) -> None:
    """Float32, from both ends: the published linspace, compared at many counts (34746 needs a fused step)."""
    for tiles in [*range(1, 1500), 16985, 34746, 59999]:
        expected = torch.linspace(0, tiles - 1, steps=prototypes).long().numpy()
        assert np.array_equal(prototype_rows(tiles, prototypes), expected), tiles


@pytest.mark.parametrize(("tiles", "regions"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_regions_hold_the_tiles_in_order_and_padding_after_them(tiles: int, regions: int) -> None:
    order = np.random.default_rng(tiles).permutation(tiles)
    places = arrange(order, tiles_per_region=4, prototypes=2)
    assert places.rows.shape == (regions, 4)
    assert places.rows[places.mask].tolist() == order.tolist()
    assert not places.rows[~places.mask].any()


def test_slides_of_a_case_share_no_region() -> None:
    order = np.random.default_rng(0).permutation(12)
    places = arrange(order, tiles_per_region=4, prototypes=5, runs=[5, 1, 6])
    assert places.mask.sum(axis=1).tolist() == [4, 1, 1, 4, 2]
    assert places.rows[places.mask].tolist() == order.tolist()
    assert places.prototypes.tolist() == order[prototype_rows(12, 5)].tolist()


def test_no_tiles_form_no_bag() -> None:
    with pytest.raises(InvalidInputError) as caught:
        arrange(np.zeros(0, dtype=np.int64), tiles_per_region=4, prototypes=2)
    assert caught.value.code == "bag-empty"

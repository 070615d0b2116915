"""A slide's regions: few, different, covering it, within it; the same however its tiles are ordered."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.errors import FatalError
from histgen_lib.models.fgcr import FgcrConfig, find_regions
from histgen_lib.models.fgcr.anchors import PUBLISHED_SCALES, published_choice

CORRECTED, PUBLISHED = FgcrConfig(), FgcrConfig(mode="published")


def grid(columns: int, rows: int, span_px: int = 256) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x, y], axis=-1).reshape(-1, 2) * span_px + np.array([1000, 70])


@given(
    cells=st.sets(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80),
    span_px=st.sampled_from([1, 224, 512.5]),
)
def test_any_slide_has_few_different_regions_within_it(cells: set[tuple[int, int]], span_px: float) -> None:
    xy = np.rint(np.array(sorted(cells)) * span_px).astype(np.int32)
    regions = find_regions(xy, span_px, CORRECTED)
    count = len(regions.rows)
    assert count == min(25, len(xy)) == len(set(regions.rows))
    assert regions.soft_mask.shape == (count, len(xy))
    assert np.allclose(regions.soft_mask[np.arange(count), regions.rows], 1)
    first, last = regions.boxes[:, :2], regions.boxes[:, :2] + regions.boxes[:, 2:]
    assert (regions.boxes[:, 2:] >= 1).all()
    assert (first >= xy.min(axis=0)).all()
    assert (last <= np.ceil(xy.max(axis=0) + span_px)).all()


@pytest.mark.parametrize("count", [7, 200, 9000])
def test_the_order_of_the_tiles_does_not_matter(count: int) -> None:
    xy = grid(100, 90)[:count]
    shuffled = np.random.default_rng(0).permutation(count)
    regions, again = find_regions(xy, 256, CORRECTED), find_regions(xy[shuffled], 256, CORRECTED)
    assert np.array_equal(shuffled[again.rows], regions.rows)
    assert np.array_equal(again.boxes, regions.boxes)


def test_regions_cover_a_large_slide_in_two_parts() -> None:
    """A hundred thousand tiles, half of them far away: each belongs to some region by more than a third."""
    xy = np.concatenate([grid(250, 200), grid(250, 200) + 900 * 256])
    regions = find_regions(xy, 256, CORRECTED)
    assert len(regions.rows) == 25
    assert regions.soft_mask.max(axis=0).min() > 1 / 3


def test_a_square_of_tiles_is_a_region_of_just_that_size() -> None:
    one = FgcrConfig(anchors_a_scale=(1,))
    assert find_regions(grid(7, 7), 256, one).boxes.tolist() == [[1000, 70, 7 * 256, 7 * 256]]
    assert find_regions(grid(1, 1), 256, one).boxes.tolist() == [[1000, 70, 256, 256]]


def test_scales_have_their_share_of_a_small_slide() -> None:
    regions = find_regions(grid(4, 3), 256, CORRECTED)
    assert np.bincount(regions.scales).tolist() == [8, 3, 1]
    assert regions.radius[regions.scales == 2].min() > regions.radius[regions.scales == 0].max()


def test_too_many_published_anchors_are_cut_as_the_authors_loader_does() -> None:
    """Shares are rounded up, what is then too many comes off the first scale."""
    places = grid(30, 26, 1)
    whole = [780 // npk + 1 for npk in PUBLISHED_SCALES]
    shares = np.ceil(25 / sum(whole) * np.array(whole)).astype(int)
    rows, scales = published_choice(places)
    assert len(rows) == 25
    assert np.bincount(scales).tolist() == [shares[0] - (shares.sum() - 25), *shares[1:]]


def test_published_regions_are_on_the_grid_with_the_published_soft_mask() -> None:
    xy = grid(12, 10)
    regions = find_regions(xy, 256, PUBLISHED)
    places = (xy - xy.min(axis=0)) / 256
    away = ((places[:, None] - places[regions.rows][None]) ** 2).sum(axis=2).T
    npk = np.array(PUBLISHED_SCALES)[regions.scales]
    assert np.allclose(regions.soft_mask, np.exp(-away / (2 * npk[:, None])), atol=1e-6)


def test_published_anchors_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(FatalError) as caught:
        find_regions(grid(3, 3), 256, PUBLISHED)
    assert caught.value.code == "extra-train-missing"

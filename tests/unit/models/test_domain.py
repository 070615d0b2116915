"""The training world's statistics tell foreign slides from familiar ones."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import FatalError
from histgen_lib.models.domain import DomainModel, domain_threshold

METHODS = ["neighbour-median", "mahalanobis-median"]


def _world(slides: int, seed: int) -> list[np.ndarray]:
    """Slides whose tiles are mixtures of four kinds of tissue, features as after a ReLU."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).gamma(1.0, 2.0, size=(4, 24))
    means = [kinds[rng.integers(0, 4, 80)] for _ in range(slides)]
    return [np.abs(mean + rng.normal(0, 0.3, mean.shape)).astype(np.float16) for mean in means]


@pytest.mark.parametrize("method", METHODS)
def test_slides_of_the_same_world_pass_and_foreign_ones_do_not(method):
    domain = DomainModel.fit(_world(30, 0), method=method)
    threshold = domain_threshold([domain.score(s) for s in _world(20, 1)], quantile=1.0, margin=1.3)
    foreign = np.abs(np.random.default_rng(5).normal(3, 3, (80, 24))).astype(np.float16)

    assert all(domain.score(s) <= threshold for s in _world(30, 2))
    assert domain.score(foreign) > threshold


def test_weak_features_are_foreign_too():
    """A network answers unknown tissue with weak features, near the mean, where nothing lives."""
    domain = DomainModel.fit(_world(30, 0))
    threshold = domain_threshold([domain.score(s) for s in _world(20, 1)], quantile=1.0, margin=1.3)
    middle = np.concatenate(_world(10, 3)).mean(axis=0, keepdims=True).repeat(50, axis=0)

    assert domain.score(middle) > threshold


def test_a_few_odd_tiles_do_not_make_a_slide_foreign():
    domain = DomainModel.fit(_world(30, 0))
    slide = _world(1, 4)[0].copy()
    usual = domain.score(slide)
    slide[:15] += 50

    assert domain.score(slide) < 1.5 * usual


@pytest.mark.parametrize("method", METHODS)
def test_saved_statistics_score_the_same(tmp_path, method):
    domain = DomainModel.fit(_world(5, 0), method=method)
    domain.save(tmp_path / "domain.safetensors")
    loaded = DomainModel.load(tmp_path / "domain.safetensors")

    assert loaded.method == method
    assert loaded.score(_world(1, 7)[0]) == domain.score(_world(1, 7)[0])


def test_fitting_twice_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        DomainModel.fit(_world(5, 0), seed=3).save(tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "domain.safetensors"
    path.write_bytes(b"not tensors")

    with pytest.raises(FatalError) as caught:
        DomainModel.load(path)
    assert caught.value.code == "model-domain-unreadable"


def test_a_world_of_constant_features_can_still_be_fitted():
    assert np.isfinite(DomainModel.fit([np.ones((10, 4), np.float16)]).score(np.ones((3, 4), np.float16)))

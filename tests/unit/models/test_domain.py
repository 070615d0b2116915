"""The training domain's statistics tell foreign slides from familiar ones."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import FatalError
from histgen_lib.models.domain import DomainModel, domain_threshold


def _world(slides: int, seed: int) -> list[np.ndarray]:
    """Slides whose tiles are mixtures of six kinds of tissue, features as after a ReLU."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).gamma(1.0, 2.0, size=(6, 24))
    means = [
        kinds[rng.choice(6, rng.integers(40, 90), p=rng.dirichlet(np.full(6, 2)))] for _ in range(slides)
    ]
    return [np.abs(mean + rng.normal(0, 0.3, mean.shape)).astype(np.float16) for mean in means]


@pytest.fixture(scope="module")
def domain() -> DomainModel:
    return DomainModel.fit(_world(120, 0))


@pytest.fixture(scope="module")
def threshold(domain) -> float:
    return domain_threshold([domain.score(s) for s in _world(40, 1)])


def test_slides_of_the_training_domain_pass(domain, threshold):
    scores = [domain.score(s) for s in _world(80, 2)]

    assert max(scores) <= threshold
    assert abs(float(np.median(scores))) < 0.75, "0 is a typical slide"


def test_other_tissue_is_foreign(domain, threshold):
    kinds = np.random.default_rng(7).gamma(1.0, 2.0, size=(6, 24))
    rng = np.random.default_rng(8)
    foreign = np.abs(kinds[rng.integers(0, 6, 60)] + rng.normal(0, 0.3, (60, 24))).astype(np.float16)

    assert domain.score(foreign) > threshold


def test_weak_features_are_foreign(domain, threshold):
    """A network answers unknown tissue with weak features, near the mean of all: nothing lives there."""
    rng = np.random.default_rng(3)
    middle = np.concatenate(_world(20, 3)).mean(axis=0) + rng.normal(0, 0.3, (50, 24))

    assert domain.score(middle) > threshold


def test_a_few_odd_tiles_do_not_make_a_slide_foreign(domain, threshold):
    slide = _world(1, 4)[0].copy()
    slide[:4] += 3

    assert domain.score(slide) <= threshold


def test_the_threshold_leaves_a_margin_above_the_validation_slides():
    assert domain_threshold([0.1, 2.0, -1.0]) == 2.5
    assert domain_threshold([0.1, 2.0, -1.0], margin=1.1) == 2.2
    assert domain_threshold([0.1, 0.3]) == 2.0


def test_saved_statistics_score_the_same(tmp_path, domain):
    domain.save(tmp_path / "domain.safetensors")
    loaded = DomainModel.load(tmp_path / "domain.safetensors")

    assert loaded.score(_world(1, 7)[0]) == domain.score(_world(1, 7)[0])


def test_fitting_twice_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        DomainModel.fit(_world(12, 0), seed=3, anchors=50).save(tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_with_other_content_is_refused(tmp_path):
    path = tmp_path / "domain.safetensors"
    path.write_bytes(b"not tensors")

    with pytest.raises(FatalError) as caught:
        DomainModel.load(path)
    assert caught.value.code == "model-domain-unreadable"


@pytest.mark.parametrize("slides", [1, 3])
def test_a_tiny_or_constant_domain_can_be_fitted(slides):
    domain = DomainModel.fit([np.ones((10, 4), np.float16)] * slides)

    assert np.isfinite(domain.score(np.ones((3, 4), np.float16)))

"""Confidence: raw beliefs, their calibration, and its place in config.json."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import FatalError
from histgen_lib.pipeline.reliability import Calibration, raw_confidence

LOGPROBS = np.log(np.array([0.9, 0.5, 0.8], dtype=np.float32))


@pytest.mark.parametrize(("statistic", "expected"), [("sum", 0.36), ("mean", 0.36 ** (1 / 3)), ("min", 0.5)])
def test_raw_confidence_is_the_chosen_statistic_of_the_tokens(statistic, expected):
    assert raw_confidence(LOGPROBS, statistic) == pytest.approx(expected, rel=1e-5)


def test_a_sentence_without_tokens_has_no_confidence():
    assert raw_confidence(np.zeros(0)) == 0.0


def _overconfident(count: int = 4000) -> tuple[list[float], list[bool]]:
    """Beliefs uniform in 0..1, right only half as often as believed."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(size=count)
    return raw.tolist(), (rng.uniform(size=count) < raw / 2).tolist()


def test_isotonic_fit_learns_that_the_decoder_is_overconfident():
    fitted = Calibration.fit_isotonic(*_overconfident())

    for raw in (0.2, 0.5, 0.9):
        assert fitted.apply(raw) == pytest.approx(raw / 2, abs=0.06)


def test_isotonic_fit_is_monotone_and_never_certain():
    rng = np.random.default_rng(1)
    fitted = Calibration.fit_isotonic(rng.uniform(0.5, 1, 200).tolist(), [True] * 200)
    values = [fitted.apply(x) for x in np.linspace(0, 1, 50)]

    assert values == sorted(values)
    assert 0 < values[-1] < 1


def test_temperature_fit_cools_an_overconfident_decoder():
    rng = np.random.default_rng(2)
    raw = np.full(2000, 0.99)
    fitted = Calibration.fit_temperature(raw.tolist(), (rng.uniform(size=2000) < 0.8).tolist())

    assert fitted.apply(0.99) == pytest.approx(0.8, abs=0.03)
    assert fitted.temperature > 1


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration("temperature", "min", 2.5),
        Calibration("isotonic", "mean", x=(0.1, 0.9), y=(0.2, 0.8)),
    ],
)
def test_config_round_trip(calibration):
    assert Calibration.from_config(calibration.to_config()) == calibration


def test_an_empty_config_means_uncalibrated():
    assert Calibration.from_config({}).apply(0.37) == 0.37


@pytest.mark.parametrize(
    "config",
    [
        {"method": "magic"},
        {"method": "isotonic"},
        {"method": "isotonic", "x": [0.1, 0.5], "y": [0.9, 0.1]},
        {"method": "temperature", "temperature": 0},
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(config):
    with pytest.raises(FatalError) as caught:
        Calibration.from_config(config)
    assert caught.value.code == "model-config-invalid"

"""Settings: presets, and invalid runs refused before anything is read."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.training import preset
from histgen_lib.training.distributed import joined
from histgen_lib.training.optim import make_optimizer, make_scaler, make_schedule
from histgen_lib.training.report.settings import TrainOverrides, TrainSettings
from histgen_lib.training.report.train import check_settings, make_tokenizer, model_config

PATHS = {"annotation": Path("a.json"), "bags": Path("bags"), "out": Path("out")}


def _code(raised: pytest.ExceptionInfo[InvalidInputError]) -> str:
    return raised.value.code


def test_the_published_preset_is_the_published_training() -> None:
    """Guo et al. 2024 and its released code: Adam with amsgrad, 1e-4, × 0.8 per epoch."""
    settings = preset("published", **PATHS)
    config = model_config(settings, 1024, 100)
    assert (settings.optimizer, settings.learning_rate, settings.step_gamma) == ("adam-amsgrad", 1e-4, 0.8)
    assert (config.d_model, config.num_layers, config.region_size, config.cmm_size) == (512, 3, 96, 2048)
    assert settings.augment == dataclasses.replace(settings.augment, tile_dropout=0.0, feature_noise=0.0)


def test_the_published_preset_trains_the_published_network_unless_overridden() -> None:
    assert model_config(preset("published", **PATHS), 1024, 100).mode == "published"
    corrected = TrainOverrides(variant="corrected").apply(preset("published", **PATHS))
    assert model_config(corrected, 1024, 100).mode == "corrected"
    assert model_config(preset("small", **PATHS), 1024, 100).mode == "corrected"


def test_a_vocabulary_with_too_many_unknown_words_is_refused_with_the_figures() -> None:
    """In 28 reports hardly any word occurs ten times: a vocabulary of four could write nothing."""
    reports = [f"Breast , biopsy : tumour number{row} of kind{row} in place{row} seen" for row in range(28)]
    settings = preset("published", **PATHS)
    with pytest.raises(InvalidInputError) as raised:
        make_tokenizer(settings, reports)
    assert _code(raised) == "training-vocabulary-poor"
    assert "28 training reports" in raised.value.message
    assert "--min-count" in raised.value.hint
    assert "bpe" in raised.value.hint
    assert make_tokenizer(dataclasses.replace(settings, word_threshold=1), reports).vocab_size > 84
    assert make_tokenizer(dataclasses.replace(settings, tokenizer="bpe"), reports).vocab_size >= 256


@pytest.mark.parametrize(("rare", "refused"), [(0, False), (20, False), (21, True), (98, True)])
def test_at_most_a_fifth_of_the_words_may_be_unknown(rare: int, refused: bool) -> None:
    """There are 100 words: those that occur once, and the full stops that end both reports."""
    words = ["common"] * (98 - rare) + [f"rare{row}" for row in range(rare)]
    settings, reports = TrainSettings(**PATHS, word_threshold=2), [" ".join(words), ""]
    with pytest.raises(InvalidInputError) if refused else nullcontext():
        make_tokenizer(settings, reports)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        preset("huge", **PATHS)  # type: ignore[arg-type]
    assert _code(raised) == "training-preset-unknown"


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"batch_size": 0}, {"patience_epochs": 0}, {"decode_every": 0}, {"learning_rate": 0.0}],
)
def test_invalid_settings_are_refused_by_name(changes: dict) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))) as raised:
        check_settings(TrainSettings(**PATHS, **changes))
    assert _code(raised) == "training-settings"


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        make_scaler(TrainSettings(**PATHS, precision="float16"), torch.device("cpu"))
    assert _code(raised) == "training-float16-cpu"


@pytest.mark.parametrize("device", ["abacus", "meta:x", ""])
def test_a_missing_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidInputError) as raised, joined(device):
        pass
    assert _code(raised) == "training-device-missing"


def test_a_missing_gpu_is_refused_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FatalError) as raised, joined("cuda"):
        pass
    assert raised.value.code == "device-unavailable"


def test_moving_a_run_does_not_change_its_fingerprint_but_its_seed_does() -> None:
    settings = TrainSettings(**PATHS)
    moved = dataclasses.replace(settings, out=Path("other"), bags=Path("b"), threads=3)
    assert moved.fingerprint() == settings.fingerprint()
    assert dataclasses.replace(settings, seed=1).fingerprint() != settings.fingerprint()


def _rates(**changes: object) -> list[float]:
    settings = TrainSettings(**PATHS, **changes)  # type: ignore[arg-type]
    optimizer = make_optimizer(torch.nn.Linear(2, 2), settings)
    schedule = make_schedule(optimizer, settings, 5)
    rates = []
    for _ in range(settings.epochs * 5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_the_step_schedule_falls_once_per_epoch() -> None:
    assert _rates(epochs=2) == pytest.approx([1e-4] * 5 + [0.8e-4] * 5)


def test_the_cosine_schedule_rises_and_then_falls_to_zero() -> None:
    rates = _rates(epochs=4, schedule="cosine", warmup_share=0.2, optimizer="adamw")
    top = rates.index(max(rates))
    assert 0 < top <= 4
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.05 * max(rates)


def test_weight_decay_spares_vectors() -> None:
    settings = TrainSettings(**PATHS, optimizer="adamw", weight_decay=0.1)
    groups = make_optimizer(torch.nn.Linear(2, 2), settings).param_groups
    decays = {weight.dim(): group["weight_decay"] for group in groups for weight in group["params"]}
    assert decays == {2: 0.1, 1: 0.0}

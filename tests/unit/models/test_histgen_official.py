"""Loading official weights: whole checkpoints, aliases, unread names, and refusals that name the culprit."""

from __future__ import annotations

import io
import os
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_histgen import random_state_dict

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import load_official

SIZES = {
    "vocab_words": 21,
    "max_seq_length": 6,
    "d_model": 16,
    "d_ff": 12,
    "d_vf": 20,
    "num_heads": 4,
    "topk": 3,
    "cmm_size": 8,
    "cmm_dim": 16,
    "prototype_num": 4,
    "region_size": 5,
}
FEATURES = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
ATTENTION = "encoder_decoder.cmn.linears.0.weight"
ALIAS = "encoder_decoder.model.cmn.linears.0.weight"
TABLE = "encoder_decoder.model.encoder.layer.0.position_embeddings.weight"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    weights = random_state_dict(5, **SIZES, input_dim=10)
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def refusal(state: object, **sizes: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        load_official(state, **sizes)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.41),
        np.float32(0.41),
        np.int64(3),
        np.array([0.1, 0.4]),
        Namespace(lr_ed=1e-4, save_dir="results", resume=None),
        {"scores": [np.float16(1), np.bool_(True)]},
        float("-inf"),
    ],
)
def test_a_training_checkpoint_on_disk_loads_as_its_state_dict(
    beside: object, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model_best.pth"
    checkpoint = {
        "epoch": 12,
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "monitor_best": beside,
    }
    torch.save(checkpoint, path)
    from_disk, from_memory = load_official(path, **SIZES), load_official(state, **SIZES)
    assert torch.equal(from_disk.encode(FEATURES), from_memory.encode(FEATURES))
    assert torch.equal(load_official(str(path), **SIZES).encode(FEATURES), from_memory.encode(FEATURES))


def test_scalars_saved_by_the_other_major_version_of_numpy_load(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model_best.pth"
    checkpoint = {"state_dict": state, "monitor_best": np.float32(0.5)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    ours = b"numpy._core.multiarray" if b"numpy._core.multiarray" in written else b"numpy.core.multiarray"
    theirs = b"numpy.core.multiarray" if ours == b"numpy._core.multiarray" else b"numpy._core.multiarray"
    path.write_bytes(written.replace(ours, theirs))
    assert load_official(path, **SIZES).config.d_model == 16


def test_weights_may_be_arrays_parameters_streams_or_modules(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    arrays = {name: value.numpy() for name, value in state.items()}
    torch.save(arrays, tmp_path / "arrays.pth")

    class Theirs(torch.nn.Module):
        def state_dict(self, *_args: Any, **_kwargs: Any) -> Any:
            return state

    parameters = {name: torch.nn.Parameter(value) for name, value in state.items()}
    doubles = {name: value.astype(">f8") for name, value in arrays.items()}
    for source in (arrays, tmp_path / "arrays.pth", stream, Theirs(), parameters, doubles):
        assert torch.equal(load_official(source, **SIZES).encode(FEATURES), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", [None, 3, ["a"], b"junk", {"epoch": 3}, {1: torch.zeros(1)}, {"a": "text"}, {"a": [1.0]}]
)
def test_anything_but_a_state_dict_is_refused(source: object) -> None:
    assert refusal(source, **SIZES).code == "checkpoint-unreadable"


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(16, dtype=torch.complex64),
        torch.zeros(16, device="meta"),
        torch.zeros(16).to_sparse(),
        "text",
    ],
)
def test_a_value_that_is_not_an_array_of_numbers_is_named(value: object, state: dict[str, Any]) -> None:
    state["encoder_decoder.model.decoder.norm.a_2"] = value
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-unreadable"
    assert "decoder.norm.a_2" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_named(value: float, state: dict[str, torch.Tensor]) -> None:
    state[ATTENTION] = state[ATTENTION].clone().fill_(value)
    state[ALIAS] = state[ATTENTION]
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-not-finite"
    assert "cmn.linears.0.weight" in error.message


def test_sizes_that_the_weights_determine_need_not_be_passed(state: dict[str, torch.Tensor]) -> None:
    needed = ("max_seq_length", "num_heads", "topk", "prototype_num", "region_size")
    model = load_official(state, **{name: SIZES[name] for name in needed})
    config = model.config
    assert (config.vocab_size, config.d_ff, config.d_vf, config.input_dim) == (21, 12, 20, 10)
    assert (config.num_layers, config.mode, model.training) == (3, "published", False)


def test_weights_the_forward_pass_never_reads_are_dropped(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    state["visual_extractor.model.0.weight"] = torch.zeros(2)
    state["encoder_decoder.model.tgt_embed.1.pe"] = torch.zeros(1, 9, 16)
    state["encoder_decoder.model.encoder.layer.1.region_position_embeddings.pe"] = torch.zeros(1, 9, 16)
    assert torch.equal(load_official(state, **SIZES).encode(FEATURES), expected)


def test_one_of_two_aliases_is_enough(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    for name in [name for name in state if name.startswith("encoder_decoder.cmn.")]:
        del state[name]
    assert torch.equal(load_official(state, **SIZES).encode(FEATURES), expected)


def test_aliases_that_differ_are_refused(state: dict[str, torch.Tensor]) -> None:
    state[ALIAS] = state[ALIAS] + 1
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-alias-differs"
    assert ATTENTION in error.message


def test_unknown_weights_are_named(state: dict[str, torch.Tensor]) -> None:
    state["encoder_decoder.surprise.weight"] = torch.zeros(2)
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-keys-unknown"
    assert "encoder_decoder.surprise.weight" in error.message


@pytest.mark.parametrize("name", ["encoder_decoder.logit.weight", "encoder_decoder.logit.bias"])
def test_missing_weights_are_named(state: dict[str, torch.Tensor], name: str) -> None:
    del state[name]
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-keys-missing"
    assert "logit" in error.message


@pytest.mark.parametrize("name", ["num_heads", "topk", "prototype_num", "region_size"])
def test_a_size_that_the_weights_do_not_determine_is_required(
    name: str, state: dict[str, torch.Tensor]
) -> None:
    for sizes in (SIZES | {name: None}, {k: v for k, v in SIZES.items() if k != name}):
        error = refusal(state, **sizes)
        assert error.code == "checkpoint-size-missing"
        assert error.message == f"The weights do not determine {name}."
        assert "training command" in error.hint


def test_all_missing_sizes_are_named_at_once(state: dict[str, torch.Tensor]) -> None:
    assert "num_heads, topk, prototype_num, region_size" in refusal(state).message


def position_table(region_size: int) -> torch.Tensor:
    return torch.zeros(-(-100_000 // region_size) + 1, 16)


def test_the_region_size_is_read_from_the_authors_position_table(state: dict[str, torch.Tensor]) -> None:
    unstated = {name: value for name, value in SIZES.items() if name != "region_size"}
    for region_size in (2, 96, 256):
        state[TABLE] = position_table(region_size)
        assert load_official(state, **unstated).config.region_size == region_size


def test_a_region_size_that_contradicts_the_position_table_causes_a_warning(
    state: dict[str, torch.Tensor],
) -> None:
    state[TABLE] = position_table(96)
    with pytest.warns(UserWarning, match="region_size 96, not 5"):
        assert load_official(state, **SIZES).config.region_size == 5
    state[TABLE] = position_table(512)  # fits 511 as well: tells nothing for certain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_official(state, **SIZES)
    assert refusal(state, **{**SIZES, "region_size": None}).code == "checkpoint-size-missing"


def test_the_longest_report_defaults_to_the_published_one(state: dict[str, torch.Tensor]) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "max_seq_length"}
    assert load_official(state, **sizes).config.max_tokens == 100


def test_sizes_may_be_a_mapping_or_parsed_options(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).config
    assert load_official(state, SIZES).config == expected
    assert load_official(state, Namespace(**SIZES)).config == expected
    assert load_official(state, {**SIZES, "topk": 2}, topk=3).config == expected


def test_integers_of_any_type_are_accepted_as_sizes(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).config
    for kind in (float, np.int64, np.int32, np.float32):
        config = load_official(state, {name: kind(value) for name, value in SIZES.items()}).config
        assert config == expected
        assert type(config.region_size) is type(config.max_tokens) is int


@pytest.mark.parametrize("value", ["16", 16.5, True, float("nan"), [16]])
def test_a_size_that_is_not_an_integer_is_named(value: object, state: dict[str, torch.Tensor]) -> None:
    for name in ("d_model", "topk"):
        error = refusal(state, **{**SIZES, name: value})
        assert error.code == "checkpoint-size-invalid"
        assert name in error.message


def test_a_dropout_that_is_not_a_number_is_named(state: dict[str, torch.Tensor]) -> None:
    assert refusal(state, **SIZES, dropout="much").code == "checkpoint-size-invalid"


def test_sizes_that_are_not_a_mapping_are_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_official(state, [16, 4])  # type: ignore[arg-type]
    assert caught.value.code == "checkpoint-size-invalid"


PUBLISHED_OPTIONS = {
    "image_dir": "features/ctranspath", "ann_path": "a.json", "dataset_name": "wsi_report", "threshold": 10,
    "num_workers": 2, "batch_size": 1, "model_name": "histgen", "visual_extractor": "resnet101",
    "visual_extractor_pretrained": True, "dropout": 0.1, "logit_layers": 1, "bos_idx": 0, "eos_idx": 0,
    "pad_idx": 0, "use_bn": 0, "drop_prob_lm": 0.5, "sample_method": "beam_search", "beam_size": 3,
    "temperature": 1.0, "sample_n": 1, "group_size": 1, "output_logsoftmax": 1, "decoding_constraint": 0,
    "block_trigrams": 1, "n_gpu": 1, "epochs": 40, "save_dir": "results", "record_dir": "records",
    "save_period": 1, "monitor_mode": "max", "monitor_metric": "BLEU_4", "early_stop": 50,
    "log_period": 1000, "optim": "Adam", "lr_ve": 1e-4, "lr_ed": 1e-4, "weight_decay": 5e-5,
    "amsgrad": True, "lr_scheduler": "StepLR", "step_size": 1, "gamma": 0.8, "seed": 1, "resume": None,
}  # fmt: skip


def test_all_options_of_the_published_training_script_are_accepted(state: dict[str, torch.Tensor]) -> None:
    options = Namespace(**PUBLISHED_OPTIONS, **SIZES)
    assert load_official(state, options).config == load_official(state, **SIZES).config


@pytest.mark.parametrize(
    "changes", [{"use_bn": 1}, {"eos_idx": 2}, {"logit_layers": 2}, {"model_name": "r2gen"}]
)
def test_options_of_another_network_are_refused(
    changes: dict[str, object], state: dict[str, torch.Tensor]
) -> None:
    error = refusal(state, **SIZES, **changes)
    assert error.code == "checkpoint-size-mismatch"
    assert next(iter(changes)) in error.message


def test_a_size_that_contradicts_the_weights_is_named(state: dict[str, torch.Tensor]) -> None:
    error = refusal(state, **{**SIZES, "d_ff": 99})
    assert error.code == "checkpoint-size-mismatch"
    assert "d_ff is 12, not 99" in error.message


REGION = "encoder_decoder.model.encoder.layer.0.region_encoder."


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("encoder_decoder.model.decoder.norm.a_2", (3,), (16,)),
        (f"{REGION}feed_forward.w_1.weight", (16, 12), (12, 16)),  # transposed: as many numbers
        (f"{REGION}self_attn.linears.0.bias", (4, 4), (16,)),
        ("encoder_decoder.model.encoder.layer.0.global_token", (4, 4), (16,)),
        ("encoder_decoder.model.decoder.norm.a_2", (1, 1, 16), (16,)),
    ],
)
def test_a_weight_of_another_shape_is_named_with_both_shapes(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...], state: dict[str, torch.Tensor]
) -> None:
    state[name] = torch.zeros(shape)
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-size-mismatch"
    assert f"{name} is {list(shape)}, not {list(expected)}" in error.message


def test_a_flat_region_token_loads_as_the_published_one(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    token = "encoder_decoder.model.encoder.layer.0.global_token"
    state[token] = state[token].flatten()
    assert torch.equal(load_official(state, **SIZES).encode(FEATURES), expected)


@pytest.mark.parametrize(
    "name", ["wsi_mapping.weight", "encoder_decoder.logit.weight", "encoder_decoder.memory_matrix"]
)
def test_a_weight_that_should_be_a_matrix_is_named(name: str, state: dict[str, torch.Tensor]) -> None:
    state[name] = state[name].flatten()
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-size-mismatch"
    assert name in error.message


def test_an_unknown_size_is_named(state: dict[str, torch.Tensor]) -> None:
    error = refusal(state, **SIZES, region_sise=96)
    assert error.code == "checkpoint-size-unknown"
    assert "region_sise" in error.message


class Executable:
    def __reduce__(self) -> Any:
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["missing", "garbage", "list", "code"])
def test_other_files_are_refused_and_never_executed(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if content == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    elif content == "code":
        torch.save({"state_dict": Executable()}, path)
    assert refusal(path, **SIZES).code == "checkpoint-unreadable"
    assert "never run" not in capsys.readouterr().out


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model_best.pth")
    error = refusal(tmp_path / "model_best.pth", **SIZES)
    assert (error.code, "not a regular file" in error.message) == ("checkpoint-unreadable", True)

"""A model folder: what is written is what is read, and broken folders are refused with a code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_histgen import SIZES, small_model

from histgen_lib.errors import FatalError
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import (
    load_model,
    load_tile_encoder,
    new_model_folder,
    save_model,
    update_config,
)
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.text.tokenizers import WordTokenizer

TILING = {"tile_px": 32, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15}
FEATURES = np.random.default_rng(1).normal(size=(9, SIZES["input_dim"])).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = small_model("corrected")
    path = tmp_path / "demo"
    new_model_folder(
        path,
        name="demo",
        synthetic=True,
        config=model.config,
        tokenizer=WordTokenizer.train(["a b c"], threshold=1),
        tiling=TILING,
        tile_encoder=TileEncoder(SIZES["input_dim"], widths=(8, 8, 8)),
        decoding=DecodingSettings(beam_size=2, max_tokens=7),
    )
    save_model(path, model)
    return path


def test_a_saved_model_loads_as_it_was(folder: Path) -> None:
    opened = open_model_folder(folder)
    assert (opened.name, opened.synthetic, opened.tiling) == ("demo", True, TILING)
    assert opened.histgen == small_model("corrected").config
    assert opened.decoding == DecodingSettings(beam_size=2, max_tokens=7)
    assert opened.tokenizer.decode([1, 2]) == ". <unk>"
    assert torch.equal(load_model(folder).encode(FEATURES), small_model("corrected").encode(FEATURES))


def test_half_precision_weights_take_half_the_space_and_load_as_float32(folder: Path) -> None:
    weights, expected = folder / "histgen.safetensors", load_model(folder).encode(FEATURES)
    full_size = weights.stat().st_size
    save_model(folder, load_model(folder), half=True)
    assert weights.stat().st_size < 0.7 * full_size
    assert torch.allclose(load_model(folder).encode(FEATURES), expected, atol=0.02)


def test_the_tile_encoder_is_rebuilt_with_its_own_widths(folder: Path) -> None:
    encoder = load_tile_encoder(folder)
    assert (encoder.dim, encoder.widths) == (SIZES["input_dim"], (8, 8, 8))
    assert len(open_model_folder(folder).encoder["sha256"]) == 64


def test_updating_a_section_leaves_the_others(folder: Path) -> None:
    before = dict(open_model_folder(folder).config)
    after = update_config(folder, abstention={"threshold": 0.4})
    assert after.section("abstention") == {"threshold": 0.4}
    assert {**after.config, "abstention": {}} == before


def test_the_digest_follows_every_file(folder: Path) -> None:
    first = open_model_folder(folder).digest
    assert open_model_folder(folder).digest == first
    update_config(folder, abstention={"threshold": 0.4})
    second = open_model_folder(folder).digest
    (folder / "domain.safetensors").write_bytes(b"statistics")
    assert len({first, second, open_model_folder(folder).digest}) == 3


def test_saving_leaves_no_partial_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "histgen.safetensors",
        "tile_encoder.safetensors",
        "tokenizer.json",
    ]


def refused(folder: Path) -> str:
    with pytest.raises(FatalError) as caught:
        load_model(folder)
    assert caught.value.hint
    return caught.value.code


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == refused(tmp_path / "nowhere") == "model-missing"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 9}'])
def test_a_config_that_cannot_be_read_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert refused(folder) == "model-config"


def test_a_config_with_unknown_sizes_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["histgen"]["colour"] = "blue"
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(folder) == "model-config"


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "histgen.safetensors").unlink()
    assert refused(folder) == "model-incomplete"


@pytest.mark.parametrize("damage", ["truncated", "other sizes"])
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: str) -> None:
    if damage == "truncated":
        weights = folder / "histgen.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        save_model(folder, small_model("corrected", d_ff=30))
    assert refused(folder) == "model-weights"


def test_a_tile_encoder_with_other_weights_of_the_same_sizes_is_refused(folder: Path) -> None:
    """They would load, and make features that the report network has never seen."""
    weights = folder / "tile_encoder.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(FatalError) as caught:
        load_tile_encoder(folder)
    assert caught.value.code == "model-weights"

"""Synthetic slides → tile encoder → bags → HistGen: the whole chain, in brief."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import planted_bags
import pytest

from histgen_lib.bags import read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.synth import generate
from histgen_lib.training import (
    EncodeSettings,
    TileTrainSettings,
    TrainSettings,
    encode_slides,
    train,
    train_tile_encoder,
)
from histgen_lib.training.encoder.folder import load_heads, open_encoder
from histgen_lib.training.encoder.source import EncoderChoice


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic slides: two to train on, one to validate."""
    folder = tmp_path_factory.mktemp("synthetic")
    generate(folder, 3, seed=11, workers=1, split="train")
    content = json.loads((folder / "annotation.json").read_text())
    content |= {"train": content["train"][:2], "val": content["train"][2:]}
    (folder / "annotation.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def settings(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> TileTrainSettings:
    return TileTrainSettings(
        world=synthetic,
        out=tmp_path_factory.mktemp("runs") / "encoder",
        dim=16,
        tiles_per_slide=8,
        tile_passes=24,
        batch_size=8,
        precision="float32",
        workers=1,
        threads=1,
        save_every_s=0.0,
    )


@pytest.fixture(scope="module")
def encoder(settings: TileTrainSettings) -> Path:
    train_tile_encoder(settings, quiet=True)
    return settings.out


@pytest.fixture(scope="module")
def bags(synthetic: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bags")
    (out / "text.svs").write_text("no slide")
    result = encode_slides(
        EncodeSettings(
            [synthetic / "slides", out / "text.svs"], [EncoderChoice(folder=encoder)], out, workers=1
        ),
        quiet=True,
    )
    assert result.written == 3
    assert [path.name for path, _ in result.failed] == ["text.svs"]
    return out


def test_the_encoders_folder_has_weights_heads_tiling_and_scores(
    encoder: Path, settings: TileTrainSettings
) -> None:
    opened = open_encoder(encoder)
    assert opened.tiling.tile_px == settings.tile_px
    assert opened.tiling.mpp == settings.mpp
    assert opened.load().dim == 16
    weight, _, names = load_heads(encoder) or pytest.fail("no heads")
    assert weight.shape == (len(names), 16)
    scores = json.loads((encoder / "training" / "scores.json").read_text())
    assert "grade_accuracy" in scores


def test_retraining_an_encoder_from_its_state_changes_nothing(
    encoder: Path, settings: TileTrainSettings
) -> None:
    before = sha256_file(encoder / "tile_encoder.safetensors")
    train_tile_encoder(settings, quiet=True)
    assert sha256_file(encoder / "tile_encoder.safetensors") == before


def test_tiles_cut_with_other_settings_are_refused(encoder: Path, settings: TileTrainSettings) -> None:
    with pytest.raises(InvalidInputError, match="tile_px") as raised:
        train_tile_encoder(dataclasses.replace(settings, tile_px=128), quiet=True)
    assert raised.value.code == "training-state-differs"


def test_features_are_standardised_over_the_training_tiles(bags: Path) -> None:
    features = np.concatenate([read_bag(path).features for path in sorted(bags.glob("*.parquet"))])
    assert abs(float(features.mean())) < 0.5
    assert 0.3 < float(features.std()) < 3


def test_existing_bags_are_kept_and_damaged_ones_replaced(synthetic: Path, encoder: Path, bags: Path) -> None:
    paths = sorted(bags.glob("*.parquet"))
    before = [sha256_file(path) for path in paths]
    paths[0].write_bytes(b"half a bag")
    result = encode_slides(
        EncodeSettings([synthetic / "slides"], [EncoderChoice(folder=encoder)], bags, workers=1), quiet=True
    )
    assert (result.written, result.kept) == (1, 2)
    assert [sha256_file(path) for path in paths] == before


def test_a_model_contains_its_encoder_and_reads_that_encoders_bags(
    synthetic: Path, encoder: Path, bags: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        annotation=synthetic / "annotation.json",
        bags=bags,
        out=tmp_path / "model",
        encoder=EncoderChoice(folder=encoder),
        synthetic=True,
        sizes=dataclasses.replace(planted_bags.SIZES, max_tokens=64),
        tokenizer="bpe",
        bpe_vocab_size=300,
        epochs=1,
        batch_size=2,
        scaled_start=True,
        threads=1,
    )
    folder = train(settings, quiet=True).folder
    config = json.loads((folder / "config.json").read_text())
    bag = read_bag(next(bags.glob("*.parquet")))
    assert config["encoder"]["sha256"] == bag.encoder_sha256 == open_encoder(encoder).sha256
    assert config["encoder"]["name"] == bag.encoder_name
    assert (
        config["encoder"]["settings_sha256"]
        == bag.encoder_settings
        == open_model_folder(folder).encoder_settings
    )
    assert config["tiling"] == dataclasses.asdict(open_encoder(encoder).tiling)
    assert config["synthetic"] is True
    assert load_tile_encoder(folder).dim == 16

"""From slides, reports and a published encoder's weights file to a model that contains the encoder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from tiny_encoders import VIT, loaded, write_vit

from histgen_lib.bags import read_bag
from histgen_lib.cli.app import run
from histgen_lib.cli.offline.doctor import _model
from histgen_lib.files import sha256_file
from histgen_lib.models.folder import TILE_ENCODER_WEIGHTS, open_model_folder
from histgen_lib.training.encoder import encode
from histgen_lib.training.encoder.slide_bags import encode_slide
from histgen_lib.training.encoder.source import choose_encoder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides with reports: two to train on, one to validate."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "slides").mkdir()
    cases = []
    for number, report in enumerate(tiny_model.REPORTS):
        tiny_model.write_slide(folder / "slides" / f"s{number}.tif", side_px=768, mpp=1.0, seed=number)
        cases.append({"id": f"s{number}", "report": report, "image_path": [f"s{number}.tif"]})
    content = {"train": cases[:2], "val": cases[2:], "test": []}
    (folder / "annotation.json").write_text(json.dumps(content))
    write_vit(folder / "vit.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(world: Path) -> Path:
    """Train with the encoder's weights file, encoding the slides first; in this process, which has torch."""
    options = [
        "--slides",
        world / "slides",
        "--annotation",
        world / "annotation.json",
        "--out",
        world / "model",
    ]
    named = ["--encoder", f"{VIT}={world / 'vit.safetensors'}", "--preset", "small", "--epochs", "1"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encode, "process_pool", lambda _count: ThreadPoolExecutor(1))
        assert run([str(part) for part in ("train", *options, *named, "--threads", "1")]) == 0
    return world / "model"


def test_the_model_contains_the_encoder_with_its_published_digest(world: Path, model: Path) -> None:
    encoder, bag = open_model_folder(model).encoder, read_bag(model / "bags" / "s0.parquet")
    assert (encoder["architecture"], encoder["dim"]) == (VIT, 64)
    assert encoder["sha256"] == sha256_file(world / "vit.safetensors") == bag.encoder_sha256
    assert encoder["settings_sha256"] == bag.encoder_settings != ""
    assert encoder["file_sha256"] == sha256_file(model / TILE_ENCODER_WEIGHTS) != encoder["sha256"]
    assert encoder["licence"]
    assert _model(model).status == "pass"


def test_it_drafts_a_slide_from_features_like_those_it_was_trained_on(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = world / "slides" / "s0.tif"
    assert run(["report", str(slide), "--model", str(model), "--out", str(tmp_path), "--json"]) == 0
    [draft] = json.loads(capsys.readouterr().out)["drafts"]
    bag, trained = read_bag(draft["files"]["bag"]), read_bag(model / "bags" / "s0.parquet")
    assert (bag.encoder_sha256, bag.encoder_settings) == (trained.encoder_sha256, trained.encoder_settings)
    assert np.allclose(bag.features, trained.features, atol=5e-3, rtol=5e-3)


def test_its_folder_encodes_as_the_published_file_does(world: Path, model: Path, tmp_path: Path) -> None:
    """Bags of either count as there, and may be mixed."""
    slide, named = world / "slides" / "s1.tif", f"{VIT}={world / 'vit.safetensors'}"
    assert encode_slide(slide, loaded([choose_encoder(str(model))], tmp_path), None).written == [0]
    assert encode_slide(slide, loaded([choose_encoder(named)], tmp_path), None).kept == [0]
    bag, trained = read_bag(tmp_path / "s1.parquet"), read_bag(model / "bags" / "s1.parquet")
    assert (bag.encoder_sha256, bag.encoder_settings) == (trained.encoder_sha256, trained.encoder_settings)
    assert np.allclose(bag.features, trained.features, atol=2e-3, rtol=2e-3)

"""A model is served, exported and described once it has a folder and a row of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_model import build_toy_house

from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import SERVED, served_model, served_models


def test_a_model_of_ones_own_takes_one_folder_and_one_row(tmp_path: Path, model_dir: Path) -> None:
    house = build_toy_house(tmp_path, model_dir)
    served = house.serve()
    assert served["ready"] == {"histgen": True, "tile_encoder": True, "toy": True, "astrology": False}
    assert served["doubles"] == [[2.0, 4.0, 6.0]]
    assert served["misfit"] == "toy-numbers"
    assert served["inputs"] == [["numbers", "float32", [-1, 3]]]
    assert served["outputs"] == [["doubles", "float32", [-1, 3]]]
    exported = {path.parent.name for path in house.repository.glob("*/config.pbtxt")}
    assert exported == {"histgen", "tile_encoder", "toy"}
    assert (house.repository / "toy" / "1" / "toy.onnx").is_file()
    config = (house.repository / "toy" / "config.pbtxt").read_text()
    assert 'input [ { name: "numbers" data_type: TYPE_FP32 dims: [ 3 ] } ]' in config
    assert "max_batch_size: 4" in config


def test_its_files_count_towards_the_folders_digest(tmp_path: Path, model_dir: Path) -> None:
    """Only where the model is served: without it the folder is what it was."""
    house = build_toy_house(tmp_path, model_dir)
    without_toy = open_model_folder(house.model).digest
    assert without_toy == open_model_folder(model_dir).digest
    assert house.serve()["version"] != without_toy


@pytest.mark.parametrize("name", SERVED)
def test_every_served_model_bears_the_name_of_its_folder(name: str) -> None:
    assert served_model(name).name == name


def test_no_two_models_run_on_the_same_file() -> None:
    files = [file for model in served_models() for file in model.files]
    assert len(files) == len(set(files))

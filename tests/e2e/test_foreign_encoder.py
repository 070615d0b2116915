"""A slide becomes a draft through a vision transformer of timm, in a real tritonserver."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from cli_runs import histgen
from running_stack import stack_up

from histgen_lib.bags import read_bag
from histgen_lib.models.tile_encoder.registry import find_encoder

ENCODER = "timm:vit_small_patch16_224?img_size=64&side=64"
"""ViT-S at its own width and depth; its pictures are small, so that a slide takes seconds."""
WIDTH = 384


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model folder around a randomly initialised ViT-S, exported by the command line."""
    folder = tmp_path_factory.mktemp("vit") / "model"
    tiny_model.make_tiny_model(folder, find_encoder(ENCODER, seed_fresh=True).network)
    run = histgen("model", "export", folder)
    assert run.code == 0, run.output
    assert str(folder / "tile_encoder.onnx") in run.out.splitlines()
    return folder


def test_a_slide_is_drafted_through_a_vit_in_triton(model: Path, triton_home: Path, tmp_path: Path) -> None:
    exported = histgen("export", model, "--target", "local", "--out", tmp_path / "repository")
    assert exported.code == 0, exported.output
    config = (tmp_path / "repository" / "tile_encoder" / "config.pbtxt").read_text()
    assert f'output [ {{ name: "features" data_type: TYPE_FP16 dims: [ {WIDTH} ] }} ]' in config

    slide = tiny_model.write_slide(tmp_path / "slide.tif")
    options = ("--inference", "triton", "--model", model, "--allow", tmp_path)
    with stack_up(tmp_path / "home", *options, env={"HISTGEN_TRITON_HOME": str(triton_home)}) as stack:
        run = stack("submit", slide, "--wait", "--json")
        assert run.code == 0, run.output
        assert stack.json("status", "slide")["slide"][0]["state"] == "drafted"

    [path] = (tmp_path / "home" / "objects" / "bags" / "slide").glob("*.parquet")
    bag = read_bag(path)
    assert bag.features.shape[1] == WIDTH
    assert bag.encoder_name == ENCODER
    [draft] = (tmp_path / "home" / "objects" / "reports" / "slide").glob("*/draft.html")
    assert draft.read_text().rstrip().endswith("</html>")

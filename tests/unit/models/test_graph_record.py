"""The ONNX files of a model folder run only if they are those of its weights and its config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histgen_lib.errors import FatalError
from histgen_lib.export import export_local
from histgen_lib.inference import OnnxServer
from histgen_lib.models.graph_record import GRAPHS
from histgen_lib.models.histgen.checkpoint import update_config


def flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def edit(folder: Path, section: str, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[section] |= changes
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of a graph": (lambda folder: flip(folder / "tile_encoder.onnx"), "model-onnx"),
    "a byte of another graph": (lambda folder: flip(folder / "histgen_step.onnx"), "model-onnx"),
    "other weights of the encoder": (lambda folder: flip(folder / "tile_encoder.safetensors"), "model-onnx"),
    "other weights of the network": (lambda folder: flip(folder / "histgen.safetensors"), "model-onnx"),
    "another network in config.json": (lambda folder: edit(folder, "histgen", topk=3), "model-onnx"),
    "another encoder in config.json": (
        lambda folder: edit(folder, "encoder", widths=[1, 2, 3]),
        "model-onnx",
    ),
    "tiles of another scale": (lambda folder: edit(folder, "tiling", mpp=1.0), "model-onnx"),
    "no record": (lambda folder: (folder / GRAPHS).unlink(), "model-incomplete"),
    "a broken record": (lambda folder: (folder / GRAPHS).write_text("{}"), "model-onnx"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_belong_together_neither_runs_nor_is_exported(
    damage: str, own_model_dir: Path, tmp_path: Path
) -> None:
    spoil, code = DAMAGE[damage]
    spoil(own_model_dir)
    tiles = np.zeros((1, 64, 64, 3), np.uint8)
    for use in (
        lambda: OnnxServer(own_model_dir, threads=1).infer("tile_encoder", {"tiles": tiles}),
        lambda: export_local(own_model_dir, tmp_path / "repository"),
    ):
        with pytest.raises(FatalError) as caught:
            use()
        assert caught.value.code == code
        assert "histgen model export" in caught.value.hint


def test_what_the_networks_do_not_depend_on_may_change(own_model_dir: Path) -> None:
    update_config(own_model_dir, abstention={"threshold": 0.5})
    OnnxServer(own_model_dir, threads=1).warm("tile_encoder")


def test_a_report_model_runs_without_the_encoder_that_it_had(own_model_dir: Path) -> None:
    for file in own_model_dir.glob("tile_encoder.*"):
        file.unlink()
    update_config(own_model_dir, encoder={"name": "another", "sha256": "", "dim": 16})
    OnnxServer(own_model_dir, threads=1).warm("histgen")


def test_an_exported_model_needs_no_weights(own_model_dir: Path, tmp_path: Path) -> None:
    repository = export_local(own_model_dir, tmp_path / "repository")
    for model in ("tile_encoder", "histgen"):
        folder = repository / model / "1"
        assert not list(folder.glob("*.safetensors"))
        OnnxServer(folder, threads=1).load(model)
        flip(next(folder.glob("*.onnx")))
        with pytest.raises(FatalError, match="is damaged"):
            OnnxServer(folder, threads=1).load(model)

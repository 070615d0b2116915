"""A model whose folder has no tile encoder drafts slides with one that is lent to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from histgen_lib.bags import Maker, read_bag
from histgen_lib.cli.app import run
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.inference import OnnxServer
from histgen_lib.models.folder import TILE_ENCODER_WEIGHTS
from histgen_lib.models.histgen.checkpoint import load_tile_encoder, update_config
from histgen_lib.models.serving import Compute
from histgen_lib.pipeline import load_model
from histgen_lib.pipeline.scan.torch_encoder import LentEncoderServer
from histgen_lib.training.encoder.folder import open_encoder

TILES = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def bare(own_model_dir: Path) -> Path:
    """Return a model without its encoder, of which it states name, digest and width."""
    stated = load_model(own_model_dir).folder.encoder
    update_config(own_model_dir, encoder={name: stated[name] for name in ("name", "sha256", "dim")})
    for name in ("tile_encoder.safetensors", "tile_encoder.onnx"):
        (own_model_dir / name).unlink()
    return own_model_dir


def own_server(model_dir: Path, threads: int) -> LentEncoderServer:
    network = load_tile_encoder(model_dir)
    inner = OnnxServer(model_dir, threads=threads)
    return LentEncoderServer(inner, network, tile_px=64, version="1", compute=Compute(threads))


def test_a_lent_encoder_gives_what_the_same_one_in_the_folder_gives(
    model_dir: Path, bare: Path, slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the tolerance between torch and ONNX Runtime; and the drafts name the same encoder."""
    bags, records = [], []
    for model, options in ((model_dir, []), (bare, ["--encoder", str(model_dir)])):
        out = tmp_path / model.name
        command = ["report", str(slide_path), "--model", str(model), "--out", str(out), *options, "--json"]
        assert run(command) == 0
        [draft] = json.loads(capsys.readouterr().out)["drafts"]
        bags.append(read_bag(draft["files"]["bag"]))
        records.append(json.loads(Path(draft["files"]["json"]).read_text())["provenance"])
    assert np.allclose(bags[0].features, bags[1].features, atol=2e-3, rtol=2e-3)
    assert bags[0].encoder_sha256 == bags[1].encoder_sha256 == sha256_file(model_dir / TILE_ENCODER_WEIGHTS)
    assert bags[0].encoder_settings == bags[1].encoder_settings != ""
    assert records[0]["encoder"] == records[1]["encoder"]


def test_without_an_encoder_such_a_model_drafts_no_slide(
    bare: Path, slide_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(slide_path), "--model", str(bare), "--out", str(tmp_path / "o")]) == 78
    assert "error[model-incomplete]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 12}, "features of length 16, not 12"),
        ({"sha256": "1" * 64}, "those of histgen-small"),
        ({"sha256": "", "name": "other"}, "those of histgen-small"),
        ({"settings": "1" * 64}, "other settings"),
    ],
)
def test_an_encoder_other_than_the_models_is_refused(
    model_dir: Path, changed: dict[str, object], words: str
) -> None:
    folder = open_encoder(model_dir)
    own = {"name": "histgen-small", "sha256": folder.sha256, "width": 16, "settings": folder.settings}
    model = load_model(model_dir)
    model.with_encoder(Maker(**own))
    with pytest.raises(InvalidInputError, match=words) as caught:
        model.with_encoder(Maker(**(own | changed)))
    assert caught.value.code == "model-other-encoder"


@pytest.mark.parametrize("name", ["UNI-2", "uni_2", "renamed"])
def test_names_count_only_where_a_digest_is_unknown_and_signs_in_them_never(bare: Path, name: str) -> None:
    encoder = Maker("uni2", "2" * 64, 16)
    update_config(bare, encoder={"name": name, "sha256": "2" * 64 if name == "renamed" else "", "dim": 16})
    assert load_model(bare).with_encoder(encoder).encoder_name == "uni2"


def test_a_draft_is_made_again_with_another_encoder(bare: Path) -> None:
    """Of a model that states none: which one was lent is part of what decides the draft."""
    from histgen_lib.pipeline.provenance import Recipe

    update_config(bare, encoder={"name": "", "sha256": "", "dim": 16})
    models = [load_model(bare)]
    models += [models[0].with_encoder(Maker("e", sign * 64, 16, "3" * 64)) for sign in "12"]
    assert len({Recipe(model).inputs_digest({"slide": "s"}) for model in models}) == 3


def test_on_a_cpu_features_depend_on_no_neighbour_and_no_thread(model_dir: Path) -> None:
    threads = torch.get_num_threads()
    try:
        whole = own_server(model_dir, 3).infer("tile_encoder", {"tiles": TILES})["features"]
        server = own_server(model_dir, 1)
        alone = [server.infer("tile_encoder", {"tiles": tile[None]})["features"] for tile in TILES]
    finally:
        torch.set_num_threads(threads)
    assert whole.dtype == np.float16
    assert np.array_equal(whole, np.concatenate(alone))


def test_a_lent_encoder_is_a_server_of_the_tile_encoder_alone(model_dir: Path, bare: Path) -> None:
    server = LentEncoderServer(OnnxServer(bare), load_tile_encoder(model_dir), tile_px=64, version="1")
    assert [server.ready(name) for name in ("tile_encoder", "histgen", "none")] == [True, True, False]
    assert server.metadata("tile_encoder").inputs[0].shape == (-1, 64, 64, 3)
    assert server.metadata("histgen") == OnnxServer(bare).metadata("histgen")
    server.warm("tile_encoder")
    server.warm("histgen")
    with pytest.raises(InvalidInputError) as caught:
        server.infer("tile_encoder", {"tiles": TILES[:, :32]})
    assert caught.value.code == "tensor-shape"

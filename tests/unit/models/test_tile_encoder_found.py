"""Encoders that users name: what is found, with which weights, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import make_tiny_model
from torch import Tensor, nn

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import json_digest, sha256_file
from histgen_lib.models.histgen.checkpoint import load_tile_encoder, update_config
from histgen_lib.models.tile_encoder import own_code
from histgen_lib.models.tile_encoder.registry import TileNetwork, find_encoder, new_network
from histgen_lib.models.tile_encoder.row import Preprocessing
from histgen_lib.models.tile_encoder.spec import parse

TILES = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
UNI = "uni?depth=1&embed_dim=32&num_heads=2&img_size=32"
VIT = "timm:test_vit?img_size=32"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write weights of `UNI` as its authors do, in float16 as some do."""
    state = find_encoder(UNI, seed_fresh=True).network.state_to_load().state_dict()
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "pytorch_model.bin")
    return tmp_path / "pytorch_model.bin"


def test_a_published_encoder_comes_with_its_weights_settings_and_tiles(weights: Path) -> None:
    built = find_encoder(UNI, weights)
    assert (built.name, built.dim, built.tile_px, built.mpp) == (UNI, 32, 256, 0.5)
    assert (built.sha256, built.licence) == (sha256_file(weights), "CC-BY-NC-ND-4.0")
    assert built.settings["pooling"] == "class"
    assert built.settings["preprocessing"]["interpolation"] == "bilinear"
    assert built.settings_sha256 == json_digest(dict(built.settings))
    assert not built.network.training
    assert {value.dtype for value in built.network.parameters()} == {torch.float32}
    fresh = find_encoder(UNI, seed_fresh=True).network
    assert torch.allclose(built.network(TILES), fresh(TILES), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("change", ["&img_size=48", "&interpolation=bicubic", "&qkv_bias=false"])
def test_whatever_changes_a_feature_changes_the_settings_digest(change: str) -> None:
    digests = {find_encoder(spec, seed_fresh=True).settings_sha256 for spec in (UNI, UNI, UNI + change)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("arguments", "side", "resize"),
    [("", 224, 256), ("img_size=112", 112, 128), ("side=448", 448, 512), ("side=112&resize=112", 112, 112)],
)
def test_the_size_of_the_input_follows_the_networks(arguments: str, side: int, resize: int) -> None:
    stated = Preprocessing(224, resize=256)
    changed = parse(f"prov-gigapath?{arguments}" if arguments else "prov-gigapath").preprocessing(stated)
    assert (changed.side, changed.resize) == (side, resize)


def test_fresh_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (find_encoder(VIT, seed_fresh=True) for _ in range(2))
    assert first.sha256 == second.sha256
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.network(TILES), second.network(TILES))


def cache(folder: Path, repo: str, file: str, content: bytes) -> Path:
    """Put a file into a Hugging Face cache as the hub's client lays it out."""
    place = folder / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "snapshots/abc" / file).write_bytes(content)
    return place / "snapshots/abc" / file


def test_weights_come_from_a_cache_that_is_there(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cache(tmp_path / "hub", "MahmoodLab/UNI", "pytorch_model.bin", weights.read_bytes())
    assert find_encoder(UNI).sha256 == sha256_file(weights)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("uni", ["pytorch_model.bin", "https://huggingface.co/MahmoodLab/UNI", "asked for", "CC-BY-NC-ND"]),
        ("ctranspath", ["ctranspath.pth", "https://github.com/Xiyue-Wang/TransPath", "GPL-3.0"]),
        ("timm:test_vit", ["model.safetensors", "https://huggingface.co/timm/test_vit"]),
        ("histgen-small", ["model folders"]),
    ],
)
def test_missing_weights_name_the_file_where_to_ask_and_the_licence(
    spec: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FatalError) as caught:
        find_encoder(spec)
    assert caught.value.code == "encoder-weights-missing"
    assert [part for part in named if part not in str(caught.value)] == []


def test_wrong_weights_name_what_does_not_fit(weights: Path, tmp_path: Path) -> None:
    tensors = torch.load(weights, weights_only=True)
    del tensors["norm.bias"]
    tensors["norm.weight"] = torch.ones(7)
    tensors["text.cls_emb"] = torch.ones(3)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(FatalError) as caught:
        find_encoder(UNI, tmp_path / "other.safetensors")
    assert caught.value.code == "encoder-weights"
    assert "missing: norm.bias; unknown: text.cls_emb" in caught.value.message
    assert "norm.weight [7] instead of [32]" in caught.value.message


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.crater),))


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    torch.save({"norm.weight": Bomb(tmp_path / "crater")}, tmp_path / "w.pth")
    with pytest.raises(FatalError) as caught:
        find_encoder(UNI, tmp_path / "w.pth")
    assert caught.value.code == "encoder-weights"
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_files_without_tensors_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(FatalError, match="holds no tensors") as caught:
        find_encoder(UNI, tmp_path / "w.pth")
    assert caught.value.code == "encoder-weights"


@pytest.mark.parametrize(
    ("spec", "code", "hint"),
    [
        ("uni2", "encoder-unknown", "uni2-h"),
        ("UNI", "encoder-unknown", "uni"),
        ("", "encoder-unknown", "timm:<model>"),
        ("timm:", "encoder-unknown", "timm:<model>"),
        ("timm:test_vitt", "encoder-unknown", "test_vit"),
        ("nowhere:build", "encoder-unknown", "PYTHONPATH"),
        ("uni?wings=2", "encoder-arguments", "timm.create_model"),
        ("timm:test_vit?checkpoint_path=x", "encoder-arguments", "<name>=<file>"),
        ("timm:hf-hub:owner/model", "encoder-unknown", "timm.list_models"),
        ("uni?depth", "encoder-arguments", "name=value"),
        ("uni?side=big", "encoder-arguments", "side"),
        ("uni?side=224&resize=100", "encoder-arguments", "resize"),
        ("uni?mean=0.5", "encoder-arguments", "three numbers"),
        ("uni?interpolation=nearest", "encoder-arguments", "bicubic or bilinear"),
    ],
)
def test_what_cannot_be_built_says_what_can(spec: str, code: str, hint: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_encoder(spec, seed_fresh=True)
    assert caught.value.code == code
    assert hint in caught.value.hint


class Grey(TileNetwork):
    """Brightness, `dim` times."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.gain = dim, nn.Parameter(torch.full((dim,), 2.0))

    def describe(self) -> dict[str, object]:
        return {"name": "grey", "dim": self.dim}

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles.float().mean(dim=(1, 2, 3))[:, None] * self.gain


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lab")
    vars(module).update(
        grey=lambda dim=3: Grey(dim),
        pixels=lambda: nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 5)),
        maps=lambda: nn.AvgPool2d(8),
        nothing=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "lab", module)
    monkeypatch.setattr(own_code, "_named", set())


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("spec", ["python:lab:grey?dim=4", "lab:grey?dim=4"])
def test_ones_own_function_makes_an_encoder(spec: str) -> None:
    built = find_encoder(spec)
    assert (built.dim, len(built.sha256)) == (4, 64)
    assert torch.equal(built.network(TILES), Grey(4)(TILES))


@pytest.mark.usefixtures("lab")
def test_a_module_of_ones_own_gets_pixels_that_were_resized_and_normalised() -> None:
    built = find_encoder("lab:pixels?side=32&mean=0,0,0&std=1,1,1")
    assert built.dim == 5
    assert torch.allclose(built.network(TILES), built.network.backbone(built.network.pixels(TILES)))
    assert built.network.pixels(TILES).shape == (2, 3, 32, 32)


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("spec", ["lab:maps", "lab:nothing", "lab:grey?wings=2"])
def test_a_function_that_makes_no_encoder_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_encoder(spec)
    assert caught.value.code == "encoder-arguments"


@pytest.mark.usefixtures("lab")
def test_a_model_folder_has_no_code_run_that_its_user_did_not_name(tmp_path: Path) -> None:
    network = Grey(3)
    folder = make_tiny_model(tmp_path / "model")
    save_file({"network.gain": network.gain.detach()}, folder / "tile_encoder.safetensors")
    update_config(folder, encoder={"name": "x", "architecture": "python:lab:grey", "dim": 3})
    with pytest.raises(FatalError) as caught:
        load_tile_encoder(folder)
    assert caught.value.code == "encoder-own-code"
    find_encoder("python:lab:grey")
    assert torch.equal(load_tile_encoder(folder)(TILES), network(TILES))


@pytest.mark.parametrize("spec", [UNI, VIT])
def test_a_model_folder_keeps_a_published_encoder(spec: str, tmp_path: Path) -> None:
    network = find_encoder(spec, seed_fresh=True).network
    folder = make_tiny_model(tmp_path / "model")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "tile_encoder.safetensors")
    update_config(folder, encoder=network.describe())
    assert torch.equal(load_tile_encoder(folder)(TILES), network(TILES))
    built = find_encoder(spec, folder / "tile_encoder.safetensors")  # its file is a weights file as well
    assert torch.equal(built.network(TILES), network(TILES))


@pytest.mark.parametrize("stated", [{"side": 32, "colour": "red"}, {}, "bicubic"])
def test_a_description_with_preprocessing_of_another_kind_is_refused(stated: object) -> None:
    described = {"name": "x", "architecture": VIT, "dim": 64, "preprocessing": stated}
    with pytest.raises(FatalError) as caught:
        new_network(described)
    assert caught.value.code == "model-config"


def test_a_timm_encoder_of_before_is_read_from_its_model_folder() -> None:
    """Its description named no preprocessing, and its constants lay among the weights."""
    network = find_encoder(VIT, seed_fresh=True).network
    constants = {name: torch.zeros(1, 3, 1, 1) for name in ("mean", "std")}
    again = new_network({"name": "timm:test_vit", "architecture": VIT, "dim": 64})
    again.load_state_dict(constants | network.state_dict())
    assert torch.equal(again.eval()(TILES), network(TILES))

"""The small tile encoder and the registry of encoders."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_model import make_tiny_model
from torch import nn

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.histgen.checkpoint import load_tile_encoder, update_config
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.models.tile_encoder.registry import (
    ARCHITECTURES,
    TileNetwork,
    build_encoder,
    new_network,
)

TILES = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder() -> TileEncoder:
    torch.manual_seed(0)
    return TileEncoder(16, widths=(8, 12, 16)).eval()


def test_both_pixel_layouts_give_the_same_features(encoder: TileEncoder) -> None:
    features = encoder(TILES)
    assert (features.shape, features.dtype) == ((3, 16), torch.float32)
    assert torch.allclose(features, encoder(TILES.permute(0, 3, 1, 2).contiguous()), atol=1e-5)


def test_a_tile_gives_the_same_feature_whatever_its_batch(encoder: TileEncoder) -> None:
    assert torch.allclose(encoder(TILES)[1:2], encoder(TILES[1:2]), atol=1e-5)


def test_every_weight_is_trained(encoder: TileEncoder) -> None:
    encoder.train()(TILES).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())


def test_an_encoder_is_rebuilt_from_its_description(encoder: TileEncoder) -> None:
    again = new_network(encoder.describe())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(TILES), encoder(TILES))


def test_the_registry_builds_our_encoder_from_a_file(encoder: TileEncoder, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, path)
    built = build_encoder("histgen-small", path, encoder.describe())
    assert (built.dim, built.licence, len(built.sha256)) == (16, "Apache-2.0", 64)
    assert torch.equal(built.network(TILES), encoder(TILES))


def test_the_registry_builds_a_timm_model_with_its_own_preprocessing(tmp_path: Path) -> None:
    backbone = timm.create_model("test_vit", num_classes=0).eval()
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    built = build_encoder("timm:test_vit", tmp_path / "w.pth")
    assert (built.dim, built.licence, built.network.training) == (64, "apache-2.0", False)
    stated = timm.data.resolve_model_data_config(backbone)
    side = stated["input_size"][-1]
    resized = torch.stack([as_pillow_resizes(tile, side) for tile in TILES])
    mean, std = (torch.tensor(stated[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = backbone((resized / 255 - mean) / std)
    assert torch.allclose(built.network(TILES), expected, atol=1e-3)


def as_pillow_resizes(tile: torch.Tensor, side: int) -> torch.Tensor:
    resized = Image.fromarray(tile.numpy()).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float()


class GreyEncoder(TileNetwork):
    """Brightness, as often as the description says."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.gain = nn.Parameter(torch.ones(dim))

    def describe(self) -> dict[str, object]:
        return {"name": "grey", "architecture": "grey", "dim": self.dim}

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.float().mean(dim=(1, 2, 3))[:, None] * self.gain


def test_an_architecture_of_ones_own_is_one_module_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model folder keeps it and gives it back, weights and all."""
    module = ModuleType("grey")
    vars(module).update(build=lambda _, description: GreyEncoder(description["dim"]))
    monkeypatch.setitem(sys.modules, "histgen_lib.models.tile_encoder.grey", module)
    monkeypatch.setitem(ARCHITECTURES, "grey", "grey")
    network = new_network({"architecture": "grey", "dim": 4})
    with torch.no_grad():
        network.gain.mul_(3)
    folder = make_tiny_model(tmp_path / "model")
    save_file({"gain": network.gain.detach()}, folder / "tile_encoder.safetensors")
    update_config(folder, encoder=network.describe())
    again = load_tile_encoder(folder)
    assert again.describe() == network.describe()
    assert torch.equal(again(TILES), network(TILES))


def test_a_timm_encoder_without_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FatalError) as caught:
        build_encoder("timm:tiny", tmp_path / "w.pth")
    assert caught.value.code == "encoder-needs-timm"
    assert "train" in caught.value.hint


@pytest.mark.parametrize("name", ["gigantic", "timm:no_such_model"])
def test_unknown_encoders_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build_encoder(name, tmp_path / "w.pth")
    assert caught.value.code == "encoder-unknown"


@pytest.mark.parametrize("content", [None, b"junk"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_unusable_weights_are_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FatalError) as caught:
        build_encoder("histgen-small", tmp_path / name)
    assert caught.value.code == "encoder-weights"

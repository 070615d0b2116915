"""Published weights files load into our networks: every tensor has its place, and none is left over."""

from __future__ import annotations

from math import prod
from pathlib import Path

import naive_dinov2
import published_names as published
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.tile_encoder import key_maps
from histgen_lib.models.tile_encoder.registry import find_encoder, new_network
from histgen_lib.models.tile_encoder.rows import ROWS
from histgen_lib.models.tile_encoder.weights import misfits

LARGE = {"depth": 24, "width": 1024}
FILES = {
    "histgen-dinov2-vitl14": published.training_checkpoint(
        published.dinov2(**LARGE, patch=14, places=256, hidden=2736, gated=True, chunk=6)
    ),
    "gpfm": published.training_checkpoint(
        published.dinov2(**LARGE, patch=14, places=256, hidden=4096, gated=False, chunk=6)
    ),
    "uni": published.vit("", **LARGE, patch=16, places=196, scaled=True),
    "phikon-v2": published.transformers(**LARGE, patch=16, places=196, hidden=4096, gated=False),
    "hibou-l": published.transformers(**LARGE, patch=14, places=256, hidden=2736, gated=True, registers=4),
    "hibou-b": published.transformers(
        depth=12, width=768, patch=14, places=256, hidden=2048, gated=True, registers=4
    ),
    "kaiko-vitl14": published.dinov2(
        **LARGE, patch=14, places=37 * 37, hidden=4096, gated=False, registers=4
    ),
    "conch": published.conch(),
    "conch-v1.5": published.conch_v1_5(),
    "ctranspath": published.ctranspath(),
}


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_of_a_published_file_has_its_place(name: str) -> None:
    with torch.device("meta"):
        network = new_network({"architecture": name}).state_to_load()
        file = {"teacher": {key: torch.zeros(shape) for key, shape in FILES[name].items()}}
        tensors = key_maps.unwrapped(file)
        renamed = getattr(key_maps, ROWS[name].names)(tensors, network)
    assert misfits(renamed, network) == ""


def fill(shapes: published.Shapes) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def loaded(spec: str, tensors: object, tmp_path: Path) -> nn.Module:
    torch.save(tensors, tmp_path / "weights.pth")
    return find_encoder(spec, tmp_path / "weights.pth").network


SMALL = "depth=1&embed_dim=64&num_heads=4"


SIZES = {"depth": 2, "width": 64, "hidden": 172}


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("histgen-dinov2-vitl14", published.dinov2(**SIZES, patch=14, places=16, gated=True, chunk=1)),
        ("gpfm", published.dinov2(**SIZES | {"hidden": 256}, patch=14, places=16, gated=False, chunk=1)),
        ("hibou-b", published.transformers(**SIZES, patch=14, places=16, gated=True, registers=4)),
        ("phikon-v2", published.transformers(**SIZES | {"hidden": 256}, patch=14, places=16, gated=False)),
    ],
)
def test_a_feature_is_what_dinov2_computes(spec: str, shapes: published.Shapes, tmp_path: Path) -> None:
    """The reference takes the published names, and Meta's description of the network."""
    tensors = fill(shapes)
    gated = "&mlp_ratio=5.375" if SIZES["hidden"] * 64 in map(prod, shapes.values()) else ""
    small = f"{spec}?depth=2&embed_dim=64&num_heads=4&patch_size=14&img_size=56{gated}"
    network = loaded(small, {"teacher": tensors}, tmp_path)
    tiles = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    expected = naive_dinov2.class_token(tensors, network.pixels(tiles), heads=4)
    with torch.inference_mode():
        assert torch.allclose(network(tiles), expected, atol=1e-4)


@pytest.mark.parametrize("timms_names", [True, False])
def test_positions_learnt_at_another_size_are_spread_over_the_grid(timms_names: bool, tmp_path: Path) -> None:
    shapes = published.dinov2(
        depth=1, width=64, patch=14, places=37 * 37, hidden=256, gated=False, registers=4
    )
    tensors = fill(shapes)
    positions = tensors["pos_embed"][:, 1:]
    if timms_names:
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors |= {"pos_embed": positions}
        del tensors["mask_token"]
    network = loaded(f"kaiko-vitl14?{SMALL}", tensors, tmp_path)
    expected = resample_abs_pos_embed(positions, [16, 16], num_prefix_tokens=0)
    assert torch.equal(network.backbone.pos_embed, expected)


class ConchPool(nn.Module):
    """CONCH's pooling as torch's own attention module computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 512))
        self.attn = nn.MultiheadAttention(512, 8, kdim=64, vdim=64, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(512), nn.LayerNorm(64)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, keys, keys, need_weights=False)[0][:, 0]


def test_conchs_tower_computes_what_its_modules_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"depth": 1, "embed_dim": 64, "num_heads": 4, "img_size": 64}
    trunk = timm.create_model("vit_base_patch16_224", num_classes=0, global_pool="", **arguments).eval()
    pool, last = ConchPool(), nn.LayerNorm(512)
    nn.init.normal_(pool.attn.in_proj_bias)
    parts = {"trunk": trunk, "attn_pool_contrast": pool, "ln_contrast": last}
    tensors = {f"visual.{k}.{n}": v for k, part in parts.items() for n, v in part.state_dict().items()}
    tower = loaded(f"conch?{SMALL}&img_size=64", tensors, tmp_path).backbone
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(tower(pixels), last(pool(trunk(pixels))), atol=1e-5)


def test_conch_v1_5s_positions_are_spread_as_its_code_does(tmp_path: Path) -> None:
    shapes = {
        name: tuple(
            64 if size == 1024 else 4 * 64 if size == 4096 else 3 * 64 if size == 3072 else size for size in s
        )
        for name, s in published.conch_v1_5().items()
        if ".blocks." not in name or ".blocks.0." in name
    }
    tensors = fill(shapes)
    tower = loaded(f"conch-v1.5?{SMALL}", tensors, tmp_path).backbone
    positions = tensors["trunk.pos_embed"]
    grid = positions[:, 1:].reshape(1, 14, 14, 64).permute(0, 3, 1, 2)
    spread = functional.interpolate(grid, scale_factor=28.1 / 14, mode="bicubic")
    assert torch.equal(tower.trunk.pos_embed[:, :1], positions[:, :1])
    assert torch.equal(tower.trunk.pos_embed[0, 1:], spread[0].flatten(1).T)


def test_ctranspath_halves_maps_where_timm_0_5_did(tmp_path: Path) -> None:
    tensors = {name: value.abs() for name, value in fill(published.ctranspath()).items()}  # as variances are
    network = loaded("ctranspath", {"model": tensors}, tmp_path)
    for stage in range(3):
        ours = network.backbone.layers[stage + 1].downsample.reduction.weight
        assert torch.equal(ours, tensors[f"layers.{stage}.downsample.reduction.weight"])
    assert network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).isfinite().all()

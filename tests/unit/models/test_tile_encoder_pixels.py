"""Preprocessing in the graph equals what published pipelines do with Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from histgen_lib.models.tile_encoder.network import pooled
from histgen_lib.models.tile_encoder.registry import find_encoder
from histgen_lib.models.tile_encoder.resampling import Pixels
from histgen_lib.models.tile_encoder.row import Preprocessing
from histgen_lib.models.tile_encoder.rows import ROWS

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(side: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("size", "resized"), [(512, 224), (256, 224), (224, 224), (300, 224), (512, 448), (96, 224), (61, 37)]
)
def test_tiles_are_resized_as_pillow_does_to_the_last_level(
    size: int, resized: int, interpolation: str
) -> None:
    levels = Preprocessing(resized, mean=(0, 0, 0), std=(1 / 255,) * 3, interpolation=interpolation)
    (tile,) = noise(size)
    ours = Pixels(levels)(torch.from_numpy(tile)[None])[0].permute(1, 2, 0).round().numpy()
    theirs = Image.fromarray(tile).resize((resized, resized), FILTERS[interpolation])
    assert np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("name", ["histgen-dinov2-vitl14", "uni", "conch", "prov-gigapath", "h-optimus-0"])
def test_a_networks_input_equals_its_authors_transforms(name: str) -> None:
    row = ROWS[name]
    stated = row.preprocessing
    theirs = transforms.Compose(
        [
            transforms.Resize(stated.resize or stated.side, FILTERS[stated.interpolation]),
            transforms.CenterCrop(stated.side),
            transforms.ToTensor(),
            transforms.Normalize(stated.mean, stated.std),
        ]
    )
    tiles = noise(row.tile_px, 2)
    expected = torch.stack([theirs(Image.fromarray(tile)) for tile in tiles])
    assert torch.allclose(Pixels(stated)(torch.from_numpy(tiles)), expected, atol=2e-6)


def test_a_crop_is_the_centre_of_what_was_resized() -> None:
    (tile,) = noise(256)
    whole = Pixels(Preprocessing(224))(torch.from_numpy(tile)[None])
    cut = Pixels(Preprocessing(160, resize=224))(torch.from_numpy(tile)[None])
    assert torch.equal(cut, whole[:, :, 32:192, 32:192])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_preprocessing_stays_in_float32_whatever_the_weights_are(dtype: torch.dtype) -> None:
    tiles = torch.from_numpy(noise(96))
    network = find_encoder("timm:test_vit", seed_fresh=True).network
    exact, pixels = network(tiles), network.pixels(tiles)
    features = network.to(dtype)(tiles)
    assert torch.equal(network.pixels(tiles), pixels)
    assert features.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(features, exact).min() > 0.999


@torch.inference_mode()
def test_a_network_is_compiled_as_one_graph_with_its_preprocessing() -> None:
    tiles = torch.from_numpy(noise(96))
    network = find_encoder("virchow2?depth=1&embed_dim=32&num_heads=2&img_size=28", seed_fresh=True).network
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.equal(compiled(tiles), network(tiles))


def test_features_are_pooled_of_class_and_patch_tokens_and_never_of_registers() -> None:
    tokens = torch.arange(2 * 7 * 3).reshape(2, 7, 3).float()  # class, two registers, four patches
    patches = tokens[:, 3:].mean(dim=1)
    assert torch.equal(pooled(tokens, "class", 3), tokens[:, 0])
    assert torch.equal(pooled(tokens, "class+mean", 3), torch.cat([tokens[:, 0], patches], dim=1))
    assert torch.equal(pooled(tokens, "own", 3), tokens)
    grid = tokens[:, 3:].reshape(2, 2, 2, 3).permute(0, 3, 1, 2)
    assert torch.equal(pooled(grid, "map", 1), patches)

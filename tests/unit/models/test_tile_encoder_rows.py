"""Every published tile encoder is built, on torch's meta device, and is what its authors publish."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from histgen_lib.models.tile_encoder import key_maps
from histgen_lib.models.tile_encoder.manual import table
from histgen_lib.models.tile_encoder.registry import TileNetwork, new_network
from histgen_lib.models.tile_encoder.row import EncoderRow
from histgen_lib.models.tile_encoder.rows import ROWS

MANUAL = Path(__file__).resolve().parents[3] / "docs/encoders.md"


@pytest.fixture(scope="module", params=ROWS)
def row(request: pytest.FixtureRequest) -> EncoderRow:
    return ROWS[request.param]


@pytest.fixture(scope="module")
def network(row: EncoderRow) -> TileNetwork:
    with torch.device("meta"):
        return new_network({"architecture": row.name})


def test_a_row_has_as_many_parameters_as_its_authors_publish(row: EncoderRow, network: TileNetwork) -> None:
    counted = sum(weight.numel() for weight in network.parameters())
    assert counted == row.params
    if row.published is not None:
        assert counted / 1e6 == pytest.approx(row.published, rel=0.01)


def test_a_row_makes_features_of_the_published_width_from_the_published_tiles(
    row: EncoderRow, network: TileNetwork
) -> None:
    assert (network.dim, network.input_px) == (row.dim, row.preprocessing.side)
    layered = row.architecture == "conch" or row.architecture.startswith("vit_")
    with torch.device("meta"):  # where layers are alike, one shows the width
        shallow = new_network({"architecture": f"{row.name}?depth=1" if layered else row.name})
        features = shallow(torch.zeros(2, row.tile_px, row.tile_px, 3, dtype=torch.uint8))
    assert (tuple(features.shape), features.dtype) == ((2, row.dim), torch.float32)


def test_a_row_says_where_its_weights_are_and_how_they_are_named(row: EncoderRow) -> None:
    assert row.source.page.startswith("https://")
    assert row.licence
    assert hasattr(key_maps, row.names)


@pytest.mark.parametrize(
    "architecture",
    ["h0-mini?depth=2", "ctranspath", "conch?depth=2", "resnet50-stage3", "timm:test_vit?side=96"],
)
def test_a_description_rebuilds_the_network(architecture: str) -> None:
    with torch.device("meta"):
        network = new_network({"architecture": architecture})
        again = new_network(network.describe())
    assert again.describe() == network.describe()
    assert again.settings() == network.settings()
    shapes = [{n: v.shape for n, v in each.state_dict().items()} for each in (network, again)]
    assert shapes[0] == shapes[1]


def test_the_manual_lists_every_row() -> None:
    assert table() in MANUAL.read_text(encoding="utf-8"), (
        "rebuild its table: python -m histgen_lib.models.tile_encoder.manual"
    )

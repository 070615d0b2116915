"""The fake model server keeps the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inference_suite import InferenceServerSuite, bag

from histgen_lib.errors import TransientError
from histgen_lib.models.folder import open_model_folder
from histgen_lib.testing import FakeInference


@pytest.fixture
def server(model_dir: Path) -> FakeInference:
    return FakeInference(model_dir)


@pytest.fixture
def width(model_dir: Path) -> int:
    return open_model_folder(model_dir).histgen.input_dim


class TestFakeInference(InferenceServerSuite):
    """The shared suite on `FakeInference`."""


def test_it_writes_the_tokens_that_it_was_made_with(model_dir: Path, width: int) -> None:
    server = FakeInference(model_dir, tokens=[5, 3, 8])
    assert server.infer("histgen", bag(30, width))["tokens"].tolist() == [5, 3, 8]
    assert server.requests == {"histgen": 1}


def test_tiles_of_different_colour_have_different_features(server: FakeInference) -> None:
    tiles = np.stack([np.full((64, 64, 3), grey, np.uint8) for grey in (50, 200)])
    first, second = server.infer("tile_encoder", {"tiles": tiles})["features"]
    assert not np.array_equal(first, second)


def test_it_can_simulate_an_outage(server: FakeInference, width: int) -> None:
    server.error = TransientError("inference-unavailable", "The server is away.")
    assert not server.ready("histgen")
    with pytest.raises(TransientError):
        server.infer("histgen", bag(3, width))

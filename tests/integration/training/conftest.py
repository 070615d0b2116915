"""A planted world and one model trained on it, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import planted_bags
import pytest
from planted_bags import PlantedWorld

from histgen_lib.training import train
from histgen_lib.training.report.train import TrainResult


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> PlantedWorld:
    return planted_bags.make_planted_world(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> PlantedWorld:
    return planted_bags.make_planted_world(tmp_path_factory.mktemp("small"), train=16, val=8, test=4)


@pytest.fixture(scope="session")
def trained(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Train the corrected network until it reads the planted tiles."""
    out: Path = tmp_path_factory.mktemp("models") / "corrected"
    return train(world.settings(out, epochs=planted_bags.EPOCHS), quiet=True)

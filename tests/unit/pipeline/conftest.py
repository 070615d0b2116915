"""A tiny model and small slides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_model


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Return a tiny model with random weights; read it, do not change it."""
    return tiny_model.tiny_model()


@pytest.fixture
def own_model_dir(model_dir: Path, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small sound slide."""
    return tiny_model.write_slide(tmp_path_factory.mktemp("slides") / "sound.tif")

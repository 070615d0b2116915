"""Pictures and slides for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from stained_picture import stained
from tiff_pyramid import halved, write_pyramid


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """Return 2300 × 2048 px of glass with one piece of tissue."""
    return stained(2048, 2300)


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory: pytest.TempPathFactory, picture: NDArray[np.uint8]) -> Path:
    """Write a sound slide: three levels, 0.25 mpp."""
    levels = [picture, halved(picture), halved(picture, 2)]
    return write_pyramid(tmp_path_factory.mktemp("slides") / "sound.tif", levels, mpp=0.25)


@pytest.fixture
def make_slide(tmp_path: Path) -> Callable[..., Path]:
    """Write slides into this test's folder with a name, levels and the options of `write_pyramid`."""

    def make(name: str, levels: list[NDArray[np.uint8]], **options: object) -> Path:
        return write_pyramid(tmp_path / name, levels, **options)

    return make

"""Pictures and slides that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tiff_pyramid import halved, write_pyramid

GLASS = (243, 242, 244)


def stained(
    height: int, width: int, *, glass: tuple[int, int, int] = GLASS, seed: int = 0
) -> NDArray[np.uint8]:
    """Draw a pink, textured ellipse with violet nuclei in the middle of grainy glass."""
    rng = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = glass
    body = np.zeros((height, width), np.uint8)
    cv2.ellipse(body, (width // 2, height // 2), (width * 3 // 10, height * 3 // 10), 0, 0, 360, 1, -1)
    stain = np.empty_like(picture)
    stain[:] = (0.88, 0.62, 0.78)
    nuclei = rng.random((height // 8 + 1, width // 8 + 1)) < 0.15
    nuclei = cv2.resize(nuclei.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    stain[nuclei] = (0.45, 0.30, 0.60)
    picture = np.where(body[..., None] > 0, picture * stain, picture)
    noise = rng.normal(0, 1.5, picture.shape) + rng.normal(0, 6, (height, width, 1)) * body[..., None]
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


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

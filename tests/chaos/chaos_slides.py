"""The slides of the chaos tests: small valid ones, all different, and five kinds of bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

SIDE_PX = 1024
GOOD = 20

Picture = NDArray[np.uint8]


def write_good(folder: Path, count: int = GOOD, *, side_px: int = SIDE_PX, first: int = 0) -> list[Path]:
    """Write valid slides of a few hundred tiles for the tiny model (2 µm/px), each with different content."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = stained(side_px)
    return [
        write_tiff(folder / f"good-{number:03}.tif", np.roll(picture, 37 * (number + 1), axis=1))
        for number in range(first, first + count)
    ]


def stained(side_px: int) -> Picture:
    """Draw a stained disc with nuclei on glass."""
    rng = np.random.default_rng(0)
    disc = cv2.circle(np.zeros((side_px, side_px), np.uint8), (side_px // 2,) * 2, side_px * 2 // 5, 1, -1)
    spots = (rng.random((side_px // 12, side_px // 12)) < 0.2).astype(np.uint8)
    nuclei = cv2.resize(spots, (side_px, side_px), interpolation=cv2.INTER_NEAREST)
    shade = rng.integers(-3, 4, (side_px, side_px, 1))
    tissue = np.where(nuclei[..., None] > 0, (110, 75, 145), (214, 150, 190))
    picture: Picture = (np.where(disc[..., None] > 0, tissue, 243) + shade).clip(0, 255).astype(np.uint8)
    return picture


def write_tiff(path: Path, picture: Picture, *, mpp: float = 2.0) -> Path:
    """Write a tiled TIFF with its resolution; equal pictures give equal files."""
    tifffile.imwrite(
        path,
        picture,
        tile=(256, 256),
        compression="zlib",
        compressionargs={"level": 1},
        photometric="rgb",
        resolution=(10_000 / mpp, 10_000 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
        software=False,
    )
    return path


def write_bad(folder: Path, count: int) -> dict[Path, str]:
    """Write unusable slides, the kinds in turn; return each path with its expected error code."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = write_tiff(folder / "sound.part", stained(512)).read_bytes()
    glass = write_tiff(folder / "glass.part", np.full((512, 512, 3), 243, np.uint8)).read_bytes()
    pixel = write_tiff(folder / "pixel.part", np.full((1, 1, 3), 200, np.uint8)).read_bytes()
    kinds: tuple[tuple[str, str, Callable[[int], bytes]], ...] = (
        ("empty.svs", "slide-empty", lambda _: b""),
        ("truncated.tif", "slide-damaged", lambda n: sound[: len(sound) // 2 - n]),
        ("text.svs", "slide-format-unknown", lambda n: b"This is no slide. %d\n" % n * 99),
        ("glass.tif", "slide-no-tissue", lambda _: glass),
        ("pixel.tif", "slide-too-small", lambda _: pixel),
    )
    written = {}
    for number in range(count):
        name, code, content = kinds[number % len(kinds)]
        path = folder / f"bad-{number:03}-{name}"
        path.write_bytes(content(number))
        written[path] = code
    for part in folder.glob("*.part"):
        part.unlink()
    return written

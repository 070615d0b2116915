"""Tiles as batches of tensors: sampled by rarity and augmented for training, unchanged for scoring."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.encoder.settings import TileTrainSettings
from histgen_lib.training.encoder.tiles import TileSet

Pixels = NDArray[np.uint8]
_RAMP = np.arange(256, dtype=np.float32) / 255


@dataclass(frozen=True)
class TileBatch:
    """Tensors uint8[B, H, W, 3], int64[B, C, C], float32[B], int64[B] and float32[B, len(MEETINGS)]."""

    pixels: Tensor
    cells: Tensor
    mitoses: Tensor
    grade: Tensor
    meetings: Tensor


def sampling_chances(tiles: TileSet) -> NDArray[np.float64]:
    """Return each tile's probability of being drawn: up to about ten times higher, the rarer its content."""
    targets = tiles.targets
    flat = targets.cells.reshape(len(tiles), -1)
    columns = [(flat == number).sum(axis=1) >= 2 for number in range(len(tiles.classes))]
    columns += [targets.mitoses >= low for low in (1, 3, 6)]
    columns += [targets.grade == grade for grade in range(3)]
    columns += list(targets.meetings.T > 0)
    content = np.stack(columns, axis=1)
    often = content.mean(axis=0).clip(min=1 / len(tiles))
    rarest = np.where(content, 1 / np.sqrt(often), 1.0).max(axis=1).clip(max=10.0)
    return np.asarray(rarest / rarest.sum(), dtype=np.float64)


def make_batch(
    tiles: TileSet, chances: NDArray[np.float64], settings: TileTrainSettings, step: int
) -> TileBatch:
    """Make the batch of one step, a function of seed and step alone."""
    rng = np.random.default_rng([settings.seed, step])
    rows = rng.choice(len(tiles), settings.batch_size, p=chances)
    changed = [augment_tile(tiles.tile(row), tiles.targets.cells[row], rng) for row in rows]
    return _tensors(tiles, rows, np.stack([c[0] for c in changed]), np.stack([c[1] for c in changed]))


def plain_batch(tiles: TileSet, rows: NDArray[np.int64]) -> TileBatch:
    """Make a batch of tiles without augmentation."""
    return _tensors(tiles, rows, np.stack([tiles.tile(row) for row in rows]), tiles.targets.cells[rows])


def encode_rows(encoder: TileEncoder, tiles: TileSet, rows: NDArray[np.int64], batch_size: int) -> Tensor:
    """Encode some tiles without gradients: float32[len(rows), D]."""
    encoder.eval()
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with torch.inference_mode():
        found = [encoder(plain_batch(tiles, part).pixels) for part in parts]
    return torch.cat(found).clone()


def _tensors(
    tiles: TileSet, rows: NDArray[np.int64], pixels: NDArray[np.uint8], cells: NDArray[np.uint8]
) -> TileBatch:
    targets = tiles.targets
    return TileBatch(
        pixels=torch.from_numpy(pixels),
        cells=torch.from_numpy(cells.astype(np.int64)),
        mitoses=torch.from_numpy(targets.mitoses[rows]),
        grade=torch.from_numpy(targets.grade[rows]),
        meetings=torch.from_numpy(targets.meetings[rows]),
    )


def augment_tile(pixels: Pixels, cells: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Vary a tile uint8[H, W, 3] in orientation, stain, focus and noise; turn its cells uint8[C, C] along."""
    turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
    changed = _stain(_turn(pixels, turns, mirrored), rng)
    if rng.random() < 0.15:
        changed = np.asarray(cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.4, 1.0)), dtype=np.uint8)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(1, 5), changed.shape[:2]).astype(np.float32)
        changed = np.clip(changed + noise[..., None], 0, 255).astype(np.uint8)
    return changed, _turn(cells, turns, mirrored)


def _turn(square: Pixels, turns: int, mirrored: bool) -> Pixels:
    """Return one of the eight orientations of a square."""
    turned = np.rot90(square, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def _stain(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply per channel a power (stain strength), a gain (lamp) and, at times, slight mixing (hue)."""
    power = rng.uniform(0.8, 1.25) * rng.uniform(0.88, 1.14, 3)
    gain = rng.uniform(0.93, 1.05) * rng.uniform(0.97, 1.03, 3)
    table = np.clip(255 * gain * _RAMP[:, None] ** power, 0, 255).astype(np.uint8)
    changed = cv2.LUT(pixels, table[None])
    if rng.random() < 0.4:
        mixing = np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3))
        mixing /= mixing.sum(axis=1, keepdims=True)
        changed = cv2.transform(changed, mixing)
    return np.asarray(changed, dtype=np.uint8)

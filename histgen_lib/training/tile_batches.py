"""Tiles as batches of tensors: drawn by how rare their content is and augmented to train, else plain."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.tile_augment import augment_tile
from histgen_lib.training.tile_cache import TileSet
from histgen_lib.training.tile_heads import TileBatchTensors
from histgen_lib.training.tile_settings import TileTrainSettings


def sampling_chances(tiles: TileSet) -> NDArray[np.float64]:
    """How likely each tile is to be drawn: the rarer its rarest content the more, up to about ten times."""
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
) -> TileBatchTensors:
    """Make the batch of one step: a function of the seed and the step alone."""
    rng = np.random.default_rng([settings.seed, step])
    rows = rng.choice(len(tiles), settings.batch_size, p=chances)
    changed = [augment_tile(tiles.tile(row), tiles.targets.cells[row], rng) for row in rows]
    return _tensors(tiles, rows, np.stack([c[0] for c in changed]), np.stack([c[1] for c in changed]))


def plain_batch(tiles: TileSet, rows: NDArray[np.int64]) -> TileBatchTensors:
    """Make a batch of tiles as they are."""
    return _tensors(tiles, rows, np.stack([tiles.tile(row) for row in rows]), tiles.targets.cells[rows])


def encode_rows(encoder: TileEncoder, tiles: TileSet, rows: NDArray[np.int64], batch_size: int) -> Tensor:
    """Features float32[len(rows), D] of some tiles, without gradients."""
    encoder.eval()
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with torch.inference_mode():
        found = [encoder(plain_batch(tiles, part).pixels) for part in parts]
    return torch.cat(found).clone()


def _tensors(
    tiles: TileSet, rows: NDArray[np.int64], pixels: NDArray[np.uint8], cells: NDArray[np.uint8]
) -> TileBatchTensors:
    targets = tiles.targets
    return TileBatchTensors(
        pixels=torch.from_numpy(pixels),
        cells=torch.from_numpy(cells.astype(np.int64)),
        mitoses=torch.from_numpy(targets.mitoses[rows]),
        grade=torch.from_numpy(targets.grade[rows]),
        meetings=torch.from_numpy(targets.meetings[rows]),
    )

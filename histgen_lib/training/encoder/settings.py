"""Settings for training the tile encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from histgen_lib.training.checkpoint import RunOverrides, RunSettings


@dataclass(frozen=True, kw_only=True)
class TileTrainSettings(RunSettings):
    """Supervised training of the small tile encoder on slides with a known class for every cell.

    world            folder that `histgen synth` wrote: slides/, truth/ and annotation.json
    out              becomes the encoder's folder: config.json, weights, and tile_heads.safetensors
    max_slides       slides of the train split to take tiles from (val_slides: of the val split, for metrics)
    tiles_per_slide  tiles kept of each slide, rare findings first
    tile_passes      tiles shown to the network in total
    precision        "bfloat16" runs convolutions in bfloat16 (twice as fast on CPUs that support it), or
                     "float32"
    workers          processes that cut tiles (0: one per core)
    """

    incidental: ClassVar[frozenset[str]] = RunSettings.incidental | {"world", "workers"}

    world: Path
    name: str = "synthetic-small"
    dim: int = 128
    tile_px: int = 256
    mpp: float = 0.5
    min_tissue: float = 0.15
    max_slides: int = 700
    val_slides: int = 40
    tiles_per_slide: int = 28
    tile_passes: int = 200_000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.05
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 1
    save_every_s: float = 60.0
    workers: int = 0

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return max(1, self.tile_passes // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class TileTrainOverrides(RunOverrides):
    """What a person sets on top of the defaults."""

    dim: int | None = None
    max_slides: int | None = None
    tile_passes: int | None = None
    batch_size: int | None = None
    precision: Literal["bfloat16", "float32"] | None = None
    seed: int | None = None

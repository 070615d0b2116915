"""What the training of a tile encoder can be told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TileTrainSettings:
    """Supervised training of the small tile encoder on slides whose every cell is known (`histgen synth`).

    world          folder with slides/, truth/ and annotation.json
    out            becomes the encoder's folder: config.json, weights, and tile_heads.safetensors; the run's
                   state and metrics lie in out/training
    max_slides     slides of the train split to take tiles from (val_slides: of the val split, for metrics)
    tiles_per_slide  tiles kept of each slide, rare findings first
    tile_passes    tiles shown to the network in all
    precision      "bfloat16" runs convolutions in bfloat16 (twice as fast where the CPU has it), or "float32"
    """

    world: Path
    out: Path
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
    threads: int = 0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, self.tile_passes // self.batch_size)

    def fingerprint(self) -> dict[str, Any]:
        """Collect what of the settings decides the weights: a resumed run must have the same."""
        ignored = {"out", "world", "name", "save_every_s", "workers", "threads"}
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ignored}

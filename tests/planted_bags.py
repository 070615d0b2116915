"""Bags in which a single tile shows the finding: a data set that a model learns in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histgen_lib.bags import Bag, write_bag
from histgen_lib.training.report.settings import ModelSizes, TrainSettings

DIM = 16
SPAN_PX = 512
EPOCHS = 30
"""Enough to learn both the finding of one tile and what all tiles show."""
ORGANS = ("Colon", "Lung")
FINDINGS = ("not identified", "present")

SIZES = ModelSizes(
    d_model=32, d_ff=32, d_vf=32, num_heads=2, num_layers=1, region_size=9, cmm_size=16, topk=8,
    prototype_num=8, max_tokens=24, dropout=0.0, feature_dropout=0.0, pooling="free",
)  # fmt: skip


@dataclass(frozen=True)
class PlantedWorld:
    """A folder of bags and its annotation file."""

    annotation: Path
    bags: Path

    def settings(self, out: Path, **changes: object) -> TrainSettings:
        """Return settings for a run that takes a few seconds on one core."""
        few: dict[str, object] = {
            "variant": "corrected", "sizes": SIZES, "tokenizer": "bpe", "bpe_vocab_size": 300,
            "optimizer": "adamw",
            "learning_rate": 4e-3, "weight_decay": 0.0, "schedule": "cosine", "warmup_share": 0.1,
            "gradient_clip": 1.0, "epochs": 2, "batch_size": 8, "select_by": "fields", "decode_every": 1,
            "patience_epochs": 50, "seed": 7, "threads": 1, "scaled_start": True, "beam_size": 2,
        }  # fmt: skip
        return TrainSettings(annotation=self.annotation, bags=self.bags, out=out, **(few | changes))  # type: ignore[arg-type]


def report(organ: int, finding: int) -> str:
    """Write the report of a planted slide."""
    return f"{ORGANS[organ]}, biopsy:\n  Tumour\n  - Necrosis: {FINDINGS[finding]}"


def planted_bag(slide_id: str, rng: np.random.Generator, organ: int, finding: int) -> Bag:
    """Make a bag whose tiles all show the organ, and one of which shows the finding."""
    count = int(rng.integers(6, 13))
    features = rng.normal(scale=0.3, size=(count, DIM))
    features[:, organ] += 2.0
    features[rng.integers(count), 4 + finding] += 4.0
    places = rng.permutation(16)[:count]
    return Bag(
        slide_id=slide_id,
        features=features.astype(np.float16),
        xy=(np.stack([places % 4, places // 4], axis=1) * SPAN_PX).astype(np.int32),
        span_px=float(SPAN_PX),
        tile_px=256,
        mpp=0.5,
        slide_mpp=0.25,
        slide_size=(4 * SPAN_PX, 4 * SPAN_PX),
        encoder_name="planted",
        encoder_sha256="0" * 64,
    )


def make_planted_world(folder: Path, *, train: int = 64, val: int = 16, test: int = 16) -> PlantedWorld:
    """Write bags/<id>.parquet and annotation.json in the published layout, the same on every call."""
    rng = np.random.default_rng(0)
    splits: dict[str, list[dict[str, object]]] = {}
    for split, count in {"train": train, "val": val, "test": test}.items():
        splits[split] = [_case(folder / "bags", f"{split}-{row:03d}", row, rng) for row in range(count)]
    (folder / "annotation.json").write_text(json.dumps(splits))
    return PlantedWorld(folder / "annotation.json", folder / "bags")


def _case(folder: Path, name: str, row: int, rng: np.random.Generator) -> dict[str, object]:
    organ, finding = row % 2, row // 2 % 2
    write_bag(planted_bag(name, rng, organ, finding), folder / f"{name}.parquet")
    return {"id": name, "report": report(organ, finding), "image_path": [f"{name}.tif"]}

"""What a HistGen training run can be told, with the published settings and one preset for small data sets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from histgen_lib.errors import InvalidInputError

Variant = Literal["published", "corrected", "mean-pooled"]
Preset = Literal["published", "small"]


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of HistGen; the defaults are the published ones (Guo et al. 2024, and its released code)."""

    d_model: int = 512
    d_ff: int = 512
    d_vf: int = 2048
    num_heads: int = 8
    num_layers: int = 3
    region_size: int = 96
    cmm_size: int = 2048
    topk: int = 512
    prototype_num: int = 512
    max_tokens: int = 100
    dropout: float = 0.1
    feature_dropout: float = 0.5
    pooling: Literal["bounded", "free"] = "bounded"


@dataclass(frozen=True)
class BagAugment:
    """Changes to a training bag: none by default, as published.

    tile_dropout   share of tiles left out, drawn anew each time (0..1)
    feature_noise  standard deviation of Gaussian noise, in standard deviations of the features
    flips          mirror and transpose the coordinates: other tiles share a region (corrected mode)
    """

    tile_dropout: float = 0.0
    feature_noise: float = 0.0
    flips: bool = False


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Defaults: the published settings for full-size models.

    annotation  annotation.json in the published layout
    bags        folder of bags (.parquet, .h5 or .pt), found by case id or by the names in image_path
    allow_missing  go on although more than half of a split's cases have no bag
    out         becomes the model folder; the run's state, metrics and TensorBoard files lie in out/training
    encoder     folder of the tile encoder that made the bags (its files go into the model folder), or None
    variant     "published", "corrected", or "mean-pooled": corrected, on one tile that is the mean of all
    batch_size  slides a step and process
    schedule    "step": learning rate × step_gamma each epoch; "cosine": linear warm-up, then cosine to zero
    precision   "float32", "bfloat16" (autocast) or "float16" (autocast with loss scaling; CUDA)
    select_by   what early stopping and the choice of the best weights look at on the validation split:
                "loss", or "fields": mean accuracy of the synoptic fields in greedy drafts, then the loss
    decode_every  epochs between greedy drafts of (at most decode_limit) validation slides
    scaled_start  begin from weights fitted to the features (see `start`), not as published
    probe_weight  weight of the probe's loss (see `probe`) beside the words'; 0, as published, leaves it out
    memory_bytes  bags are held in memory when their files together are no larger
    """

    annotation: Path
    bags: Path
    out: Path
    encoder: Path | None = None
    name: str = "histgen"
    synthetic: bool = False
    variant: Variant = "published"
    sizes: ModelSizes = field(default_factory=ModelSizes)
    tokenizer: Literal["word", "bpe"] = "word"
    word_threshold: int = 10
    bpe_vocab_size: int = 2000
    optimizer: Literal["adam-amsgrad", "adamw"] = "adam-amsgrad"
    learning_rate: float = 1e-4
    weight_decay: float = 5e-5
    schedule: Literal["step", "cosine"] = "step"
    step_gamma: float = 0.8
    warmup_share: float = 0.0
    gradient_clip: float | None = None
    epochs: int = 40
    batch_size: int = 1
    augment: BagAugment = field(default_factory=BagAugment)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    seed: int = 9223
    select_by: Literal["loss", "fields"] = "loss"
    patience_epochs: int = 10
    decode_every: int = 5
    decode_limit: int = 200
    save_every_s: float = 120.0
    beam_size: int = 3
    threads: int = 0
    scaled_start: bool = False
    probe_weight: float = 0.0
    memory_bytes: int = 4 << 30
    allow_missing: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """Collect what of the settings decides the weights: a resumed run must have the same."""
        ignored = {
            "out",
            "bags",
            "annotation",
            "encoder",
            "save_every_s",
            "threads",
            "device",
            "name",
            "memory_bytes",
            "allow_missing",
        }
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ignored}


def preset(name: Preset, /, **changes: Any) -> TrainSettings:
    """Make settings by name, with `changes` on top (annotation, bags and out are needed).

    "published"  the defaults: the authors' network, millions of tiles, thousands of reports, a GPU
    "small"      the corrected network for a few thousand slides with short synoptic reports, on a CPU: slim,
                 byte-pair words, AdamW with warm-up and cosine, batches of 8, bag augmentation, chosen by
                 field accuracy
    """
    if name == "published":
        return TrainSettings(**changes)
    if name != "small":
        raise InvalidInputError(
            "training-preset-unknown", f"No preset is called {name}.", hint="published or small."
        )
    return TrainSettings(**(_SMALL | changes))


_SMALL: dict[str, Any] = {
    "variant": "corrected",
    "sizes": ModelSizes(
        d_model=128,
        d_ff=256,
        d_vf=128,
        num_heads=4,
        num_layers=2,
        region_size=5,
        cmm_size=128,
        topk=32,
        prototype_num=32,
        max_tokens=96,
        dropout=0.1,
        feature_dropout=0.1,
        pooling="free",
    ),
    "tokenizer": "bpe",
    "bpe_vocab_size": 400,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_share": 0.05,
    "gradient_clip": 1.0,
    "epochs": 28,
    "batch_size": 8,
    "augment": BagAugment(tile_dropout=0.05, feature_noise=0.05, flips=True),
    "select_by": "fields",
    "patience_epochs": 15,
    "decode_every": 4,
    "scaled_start": True,
    "probe_weight": 0.1,
}

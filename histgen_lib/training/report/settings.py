"""Settings of a HistGen training run: the published ones, and a preset for small data sets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from histgen_lib.errors import InvalidInputError
from histgen_lib.training.checkpoint import RunOverrides, RunSettings
from histgen_lib.training.data import Arrangement, BagAugment
from histgen_lib.training.encoder.source import EncoderChoice
from histgen_lib.training.optim import OptimSettings

Variant = Literal["published", "corrected", "mean-pooled"]
Preset = Literal["published", "small"]
TokenizerKind = Literal["word", "bpe"]


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


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings, OptimSettings):
    """One HistGen training run. Defaults: the published settings for full-size models.

    annotation      annotation.json in the published layout
    bags            folder of bags (.parquet, .h5 or .pt), found by case id or by the names in image_path
    allow_missing   continue although more than half of a split's cases have no bag
    encoder         the tile encoder that made the bags (copied into the model folder), or None
    variant         "published", "corrected", or "mean-pooled": corrected, on one tile, the mean of all
    select_by       what early stopping and the choice of the best weights look at on the validation split:
                    "loss", or "fields": mean accuracy of the synoptic fields in greedy drafts, then the loss
    decode_every    epochs between greedy drafts of (at most decode_limit) validation slides
    scaled_start    start from weights fitted to the features (see `small_data`), not as published
    probe_weight    weight of the probe's loss (see `small_data`) beside the words'; published: 0, no probe
    memory_bytes    bags are held in memory if their files together are no larger
    """

    incidental: ClassVar[frozenset[str]] = RunSettings.incidental | {
        "bags",
        "annotation",
        "encoder",
        "device",
        "memory_bytes",
        "allow_missing",
    }

    annotation: Path
    bags: Path
    encoder: EncoderChoice | None = None
    name: str = "histgen"
    synthetic: bool = False
    variant: Variant = "published"
    sizes: ModelSizes = field(default_factory=ModelSizes)
    tokenizer: TokenizerKind = "word"
    word_threshold: int = 10
    bpe_vocab_size: int = 2000
    augment: BagAugment = field(default_factory=BagAugment)
    device: str = "cpu"
    seed: int = 9223
    select_by: Literal["loss", "fields"] = "loss"
    patience_epochs: int = 10
    decode_every: int = 5
    decode_limit: int = 200
    save_every_s: float = 120.0
    beam_size: int = 3
    scaled_start: bool = False
    probe_weight: float = 0.0
    memory_bytes: int = 4 << 30
    allow_missing: bool = False

    @property
    def arrangement(self) -> Arrangement:
        """How the variant's network takes the tiles of a case."""
        return arrangement_of(self.variant)


@dataclass(frozen=True, kw_only=True)
class TrainOverrides(RunOverrides):
    """What a person sets on top of a preset."""

    variant: Variant | None = None
    tokenizer: TokenizerKind | None = None
    word_threshold: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    seed: int | None = None
    patience_epochs: int | None = None


def arrangement_of(variant: Variant) -> Arrangement:
    """Return how a variant's network takes the tiles of a case."""
    if variant == "mean-pooled":
        return "mean"
    return "slide" if variant == "published" else "curve"


def preset(name: Preset, *, annotation: Path, bags: Path, out: Path) -> TrainSettings:
    """Make settings by name.

    "published"  the defaults: the authors' network, millions of tiles, thousands of reports, a GPU
    "small"      the corrected network for a few thousand slides with short synoptic reports, on a CPU: slim,
                 byte-pair words, AdamW with warm-up and cosine, batches of 8, bag augmentation, weights
                 chosen by field accuracy

    InvalidInputError("training-preset-unknown").
    """
    settings = TrainSettings(annotation=annotation, bags=bags, out=out)
    if name == "published":
        return settings
    if name != "small":
        raise InvalidInputError(
            "training-preset-unknown", f"There is no preset {name}.", hint="Use published or small."
        )
    return _small(settings)


def _small(settings: TrainSettings) -> TrainSettings:
    return replace(
        settings,
        variant="corrected",
        sizes=_SMALL_SIZES,
        tokenizer="bpe",
        bpe_vocab_size=400,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_share=0.05,
        gradient_clip=1.0,
        epochs=28,
        batch_size=8,
        augment=BagAugment(tile_dropout=0.05, feature_noise=0.05, flips=True),
        select_by="fields",
        patience_epochs=15,
        decode_every=4,
        scaled_start=True,
        probe_weight=0.1,
    )


_SMALL_SIZES = ModelSizes(
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
)

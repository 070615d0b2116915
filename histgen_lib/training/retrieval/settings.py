"""Settings of a run that trains the retrieval network: the published ones, and a small preset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr.config import FgcrConfig, Mode
from histgen_lib.models.fgcr.losses import LossWeights
from histgen_lib.training.checkpoint import RunOverrides, RunSettings
from histgen_lib.training.optim import OptimSettings

ImageEncoder = Literal["fgcr", "mean", "attention"]
"""What makes a slide's vector: FGCR, or what it is compared with, the tiles' mean or gated attention."""


@dataclass(frozen=True)
class SlideAugment:
    """Random changes to a training slide; by default none, as published.

    box_chance     how often a random part of the slide stands for it, as a box that somebody asks about
    box_least      the smallest share of the slide's tiles in such a box (0..1)
    tile_dropout   share of tiles left out, drawn anew each time (0..1)
    feature_noise  standard deviation of Gaussian noise, in standard deviations of the slide's features
    """

    box_chance: float = 0.0
    box_least: float = 0.3
    tile_dropout: float = 0.0
    feature_noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(RunSettings, OptimSettings):
    """One run. Defaults: the published network and settings.

    annotation, bags   as for HistGen: annotation.json in its published layout, and a folder of bags
    model              the model folder that gets the network; `out` becomes a copy of it, or is it
    network            sizes and mode; the widths of features, words and prompts follow from the data
    image              what makes a slide's vector: "fgcr" unless something is compared with it
    prompts            how many prompts are mined from the training reports at most
    word_threshold     words that occur less often become unknown
    hidden_words       share of the words that are hidden, to be guessed
    losses             weights of a corrected network's losses
    patience_epochs    epochs without a better validation score before training stops
    memory_bytes       bags are held in memory if their files together are no larger
    """

    incidental: ClassVar[frozenset[str]] = RunSettings.incidental | {
        "annotation",
        "bags",
        "model",
        "device",
        "memory_bytes",
        "allow_missing",
    }

    annotation: Path
    bags: Path
    model: Path
    name: str = "fgcr"
    network: FgcrConfig = field(default_factory=lambda: FgcrConfig(mode="published"))
    image: ImageEncoder = "fgcr"
    prompts: int = 25
    word_threshold: int = 3
    hidden_words: float = 0.4
    losses: LossWeights = field(default_factory=LossWeights)
    augment: SlideAugment = field(default_factory=SlideAugment)
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 9223
    patience_epochs: int = 20
    save_every_s: float = 120.0
    memory_bytes: int = 4 << 30
    allow_missing: bool = False

    learning_rate: float = 1e-4
    epochs: int = 100
    batch_size: int = 16

    @property
    def run_folder(self) -> Path:
        """Folder of the run's own files, beside those of the report network."""
        return self.out / "training" / "retrieval"


@dataclass(frozen=True, kw_only=True)
class RetrievalOverrides(RunOverrides):
    """What a person sets on top of a preset."""

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    device: Literal["cpu", "cuda"] | None = None
    seed: int | None = None
    prompts: int | None = None
    word_threshold: int | None = None
    patience_epochs: int | None = None


def retrieval_preset(name: str, *, annotation: Path, bags: Path, model: Path, out: Path) -> RetrievalSettings:
    """Make settings by name.

    "published"  the defaults: the authors' network, for thousands of slides and a GPU
    "small"      the corrected network for hundreds of slides or more, slim, on a CPU

    InvalidInputError("training-preset-unknown").
    """
    settings = RetrievalSettings(annotation=annotation, bags=bags, model=model, out=out)
    if name == "published":
        return settings
    if name != "small":
        raise InvalidInputError(
            "training-preset-unknown", f"There is no preset {name}.", hint="Use published or small."
        )
    return _small(settings)


def in_mode(settings: RetrievalSettings, mode: Mode) -> RetrievalSettings:
    """Return the same settings for a network of the other mode; a published one has no augmentation."""
    augment = settings.augment if mode == "corrected" else SlideAugment()
    return replace(settings, network=replace(settings.network, mode=mode), augment=augment)


def _small(settings: RetrievalSettings) -> RetrievalSettings:
    return replace(
        settings,
        network=_SMALL,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_share=0.05,
        gradient_clip=1.0,
        epochs=24,
        batch_size=32,
        hidden_words=0.2,
        augment=SlideAugment(box_chance=0.2, box_least=0.4, tile_dropout=0.1, feature_noise=0.1),
        patience_epochs=12,
    )


_SMALL = FgcrConfig(
    mode="corrected",
    dim=128,
    depth=2,
    heads=4,
    dim_head=32,
    mlp_dim=256,
    word_dim=128,
    text_heads=4,
    text_layers=2,
    text_ff=256,
    max_words=96,
    embed_dim=128,
    dropout=0.1,
    text_dropout=0.1,
)

"""Published, corrected and mean-pooled HistGen on the same bags with the same budget, as one table.

What is measured comes from outside (`Score`): training knows drafts, not metrics.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histgen_lib.bags import Bag, read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.models.histgen.folder import ModelFolder, open_model_folder
from histgen_lib.training.annotation import BAG_SUFFIXES, Case, index_files, read_annotation, require_matches
from histgen_lib.training.comparison_table import Figure, Row
from histgen_lib.training.drafting import draft_bag
from histgen_lib.training.histgen_run import train
from histgen_lib.training.progress import TrainProgress
from histgen_lib.training.settings import TrainSettings, Variant

VARIANTS: tuple[Variant, ...] = ("published", "corrected", "mean-pooled")


@dataclass(frozen=True)
class DraftedSlide:
    """One scored slide: its case, its bag, and what is measured of its draft, in the form of draft.json.

    `draft`: {"slide_id", "text", "sentences": [{"text", "evidence": [{"x", "y", "span_px", "weight"}], …}]};
    a mean-pooled draft has no evidence.
    """

    case: Case
    bag: Bag
    draft: Mapping[str, Any]


Score = Callable[[Sequence[DraftedSlide]], Mapping[str, Figure]]
"""Drafts of one variant → its figures by name, in the order in which the table shows them."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare on what.

    base        how missing models are trained; `base.out` gets a folder a variant
    annotation, bags, split  the slides that are scored; never those that anything was trained or chosen on
    trained     model folders that are there already: these variants are not trained
    """

    base: TrainSettings
    annotation: Path
    bags: Path
    split: str = "test"
    trained: Mapping[Variant, Path] = field(default_factory=dict)


def compare(settings: ComparisonSettings, score: Score, *, quiet: bool = False) -> list[Row]:
    """Train what is missing, draft every slide of the split with each variant, and score the drafts.

    A run that was stopped goes on where it stopped. Raises what `train` raises, and InvalidInputError:
    "training-comparison-variant" (a given model is not of the variant it is given for),
    "training-bags-missing", "training-bags-differ".
    """
    for variant, folder in settings.trained.items():
        _check_variant(variant, open_model_folder(folder))
    cases = read_annotation(settings.annotation).split(settings.split)
    found = require_matches(settings.split, cases, index_files(settings.bags, BAG_SUFFIXES), settings.bags)
    return [_row(settings, variant, found, score, quiet=quiet) for variant in VARIANTS]


def variant_settings(base: TrainSettings, variant: Variant) -> TrainSettings:
    """Give a variant the common budget; the published one also keeps its bounded pooling."""
    pooling = "bounded" if variant == "published" else base.sizes.pooling
    sizes = dataclasses.replace(base.sizes, pooling=pooling)
    return dataclasses.replace(base, variant=variant, sizes=sizes, name=variant, out=base.out / variant)


def _row(
    settings: ComparisonSettings,
    variant: Variant,
    found: Sequence[tuple[Case, Path]],
    score: Score,
    *,
    quiet: bool,
) -> Row:
    folder = settings.trained.get(variant)
    if folder is None:
        folder = train(variant_settings(settings.base, variant), quiet=quiet).folder
    opened, model = open_model_folder(folder), load_model(folder)
    with TrainProgress(f"draft with {variant}", len(found), quiet=quiet) as progress:
        drafted = [_drafted(case, path, variant, opened, model, progress=progress) for case, path in found]
    epochs, seconds = _effort(folder)
    return Row(
        variant=variant,
        figures=dict(score(drafted)),
        slides=len(drafted),
        parameters=sum(weight.numel() for weight in model.parameters()),
        epochs=epochs,
        seconds=seconds,
        origin=opened.section("training"),
        given=variant in settings.trained,
    )


def _drafted(
    case: Case, path: Path, variant: Variant, opened: ModelFolder, model: HistGen, *, progress: TrainProgress
) -> DraftedSlide:
    bag = read_bag(path)
    if bag.encoder_sha256 != opened.encoder.get("sha256", bag.encoder_sha256):
        raise InvalidInputError(
            "training-bags-differ",
            f"The bag of {case.id} was made by another tile encoder than the {variant} model reads.",
            hint="Encode the slides with `histgen encode --encoder` and that model's folder.",
        )
    drafted = DraftedSlide(case, bag, draft_bag(model, opened, variant, bag))
    progress.advance(1, case.id)
    return drafted


def _check_variant(variant: Variant, opened: ModelFolder) -> None:
    mode = "published" if variant == "published" else "corrected"
    stated = opened.section("training").get("variant", variant)
    if opened.histgen.mode != mode or stated != variant:
        raise InvalidInputError(
            "training-comparison-variant",
            f"The model {opened.name} is not a {variant} one (mode {opened.histgen.mode}).",
            hint="Give each variant a model folder that `histgen train --variant` wrote for it.",
        )


def _effort(folder: Path) -> tuple[int | None, float | None]:
    """Epochs and seconds of training, as the run's metrics.csv says; None where that is not at hand."""
    try:
        with (folder / "training" / "metrics.csv").open(encoding="utf-8", newline="") as handle:
            last = list(csv.DictReader(handle))[-1]
        return round(float(last["epoch"])), float(last["seconds"])
    except (OSError, IndexError, KeyError, ValueError):
        return None, None

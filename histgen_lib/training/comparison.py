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

from histgen_lib.bags import Bag, maker_of, read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.training.annotation import Case, read_annotation
from histgen_lib.training.comparison_table import Figure, Row
from histgen_lib.training.drafting import draft_bags
from histgen_lib.training.histgen_run import train
from histgen_lib.training.matching import BAG_SUFFIXES, Found, Matching, index_files, match_splits
from histgen_lib.training.progress import TrainProgress
from histgen_lib.training.settings import TrainSettings, Variant

VARIANTS: tuple[Variant, ...] = ("published", "corrected", "mean-pooled")


@dataclass(frozen=True)
class DraftedSlide:
    """One scored case: the bags of its slides, and what is measured of its draft, in the form of draft.json.

    `draft`: {"slide_id", "text", "sentences": [{"text", "evidence": [{"x", "y", "span_px", "weight"}], …}]};
    a mean-pooled draft has no evidence.
    """

    case: Case
    bags: tuple[Bag, ...]
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


def compare(
    settings: ComparisonSettings,
    score: Score,
    *,
    quiet: bool = False,
    tell: Callable[[Sequence[Matching]], None] = lambda cases: None,
) -> list[Row]:
    """Train what is missing, draft every slide of the split with each variant, and score the drafts.

    `tell` hears what of the annotations is used: of the split first, then as in `train`. A run that was
    stopped goes on where it stopped. Raises what `train`, `read_annotation` and `match_splits` raise, and
    InvalidInputError: "training-comparison-variant" (a given model is not of the variant it is given for),
    "training-bags-differ".
    """
    for variant, folder in settings.trained.items():
        _check_variant(variant, open_model_folder(folder))
    annotation, files = read_annotation(settings.annotation), index_files(settings.bags, BAG_SUFFIXES)
    few = settings.base.allow_missing
    [scored] = match_splits(annotation, (settings.split,), files, allow_missing=few)
    _refuse_trained_on(settings, scored)
    tell([scored])
    return [_row(settings, variant, scored.found, score, quiet=quiet, tell=tell) for variant in VARIANTS]


def _refuse_trained_on(settings: ComparisonSettings, scored: Matching) -> None:
    """Refuse to score cases that models are trained or chosen on here, where those are in another file."""
    if settings.base.annotation == settings.annotation or set(settings.trained) == set(VARIANTS):
        return
    known = read_annotation(settings.base.annotation)
    both = {case.id for case in (*known.train, *known.val)} & {found.case.id for found in scored.found}
    if both:
        raise InvalidInputError(
            "training-slide-in-two-splits",
            f"{len(both)} cases are to be trained on and scored, such as {min(both)}.",
            hint="Take them out of the annotation that is trained on, or out of the one that is scored.",
        )


def variant_settings(base: TrainSettings, variant: Variant) -> TrainSettings:
    """Give a variant the common budget; the published one also keeps its bounded pooling."""
    pooling = "bounded" if variant == "published" else base.sizes.pooling
    sizes = dataclasses.replace(base.sizes, pooling=pooling)
    return dataclasses.replace(base, variant=variant, sizes=sizes, name=variant, out=base.out / variant)


def _row(
    settings: ComparisonSettings,
    variant: Variant,
    found: Sequence[Found],
    score: Score,
    *,
    quiet: bool,
    tell: Callable[[Sequence[Matching]], None],
) -> Row:
    folder = settings.trained.get(variant)
    if folder is None:
        folder = train(variant_settings(settings.base, variant), quiet=quiet, tell=tell).folder
    opened, model = open_model_folder(folder), load_model(folder)
    with TrainProgress(f"draft with {variant}", len(found), quiet=quiet) as progress:
        drafted = [_drafted(one, variant, opened, model, progress=progress) for one in found]
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
    found: Found, variant: Variant, opened: ModelFolder, model: HistGen, *, progress: TrainProgress
) -> DraftedSlide:
    case, bags = found.case, tuple(read_bag(path) for path in found.paths)
    for made in map(maker_of, bags):
        if made.sha256 != opened.encoder.get("sha256", made.sha256) or made.width != model.config.input_dim:
            raise InvalidInputError(
                "training-bags-differ",
                f"The bag of {case.id} was made by another tile encoder than the {variant} model reads.",
                hint="Encode the slides with `histgen encode --encoder` and that model's folder.",
            )
    drafted = DraftedSlide(case, bags, draft_bags(model, opened, variant, case.id, bags))
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

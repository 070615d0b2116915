"""Published, corrected and mean-pooled HistGen on the same bags with the same budget, as one table.

The caller supplies the metrics (`Score`): training produces drafts and does not score them.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.bags import BAG_SUFFIXES, Bag, maker_of, read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import HistGen, tile_order
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.models.histgen.decoding import Decoded, decode
from histgen_lib.models.histgen.layout import arrange
from histgen_lib.models.histgen.network import TorchStepper
from histgen_lib.models.histgen.serving import tile_evidence
from histgen_lib.pipeline.draft.sentences import Generated, make_sentences, token_spans
from histgen_lib.pipeline.model import report_model
from histgen_lib.training.annotation import Case, read_annotation
from histgen_lib.training.data import prepare
from histgen_lib.training.matching import Found, Matching, index_files, match_splits
from histgen_lib.training.report.settings import TrainSettings, Variant, arrangement_of
from histgen_lib.training.report.train import train
from histgen_lib.training.tracking import TrainProgress

_T = TypeVar("_T")
_ABSENT = "–"

VARIANTS: tuple[Variant, ...] = ("published", "corrected", "mean-pooled")


@dataclass(frozen=True)
class Figure:
    """A number of one variant: value, 95 % interval (NaN: none), and the number of cases (0: all slides).

    A `share` is shown in percent.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0
    share: bool = True

    def cell(self) -> str:
        """Format it: "93.3 % (85.0 to 98.3)", or – if it was not measured."""
        if math.isnan(self.value):
            return _ABSENT
        interval = "" if math.isnan(self.low) else f" ({self._plain(self.low)} to {self._plain(self.high)})"
        return f"{self._plain(self.value)}{' %' if self.share else ''}{interval}"

    def _plain(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.share else f"{value:.3f}"


@dataclass(frozen=True)
class Row:
    """One variant: its figures, size and training effort.

    `origin` is config.json's "training"; `pretrained`: the model was passed in, not trained here.
    """

    variant: str
    figures: Mapping[str, Figure]
    slides: int
    parameters: int
    epochs: int | None = None
    seconds: float | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False


@dataclass(frozen=True)
class DraftedSlide:
    """One case to score: the bags of its slides, and its draft as in draft.json.

    `draft`: {"slide_id", "text", "sentences": [{"text", "evidence": [{"x", "y", "span_px", "weight"}], …}]};
    a mean-pooled draft has no evidence.
    """

    case: Case
    bags: tuple[Bag, ...]
    draft: Mapping[str, Any]


Score = Callable[[Sequence[DraftedSlide]], Mapping[str, Figure]]
"""Drafts of one variant → its figures by name, in the order of the table."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare, and on which slides.

    base                     how missing models are trained; `base.out` gets one folder per variant
    annotation, bags, split  the slides to score; never slides that a model was trained or chosen on
    trained                  existing model folders: these variants are not trained
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
    on_matched: Callable[[Sequence[Matching]], None] = lambda cases: None,
) -> list[Row]:
    """Train the missing models, draft every slide of the split with each variant, and score the drafts.

    `on_matched` gets the cases in use: first those of the split, then as in `train`. An interrupted run
    resumes. Raises what `train`, `read_annotation` and `match_splits` raise, and InvalidInputError:
    "training-comparison-variant" (an existing model is of another variant), "training-bags-differ".
    """
    for variant, folder in settings.trained.items():
        _check_variant(variant, open_model_folder(folder))
    annotation, files = read_annotation(settings.annotation), index_files(settings.bags, BAG_SUFFIXES)
    allow_missing = settings.base.allow_missing
    [scored] = match_splits(annotation, (settings.split,), files, allow_missing=allow_missing)
    _refuse_trained_on(settings, scored)
    on_matched([scored])
    return [
        _row(settings, variant, scored.found, score, quiet=quiet, on_matched=on_matched)
        for variant in VARIANTS
    ]


def _refuse_trained_on(settings: ComparisonSettings, scored: Matching) -> None:
    """Refuse to score cases that this run trains on or chooses weights by, listed in another file."""
    if settings.base.annotation == settings.annotation or set(settings.trained) == set(VARIANTS):
        return
    known = read_annotation(settings.base.annotation)
    both = {case.id for case in (*known.train, *known.val)} & {found.case.id for found in scored.found}
    if both:
        raise InvalidInputError(
            "training-slide-in-two-splits",
            f"{len(both)} cases would be both trained on and scored, such as {min(both)}.",
            hint="Remove them from the training annotation or from the scored one.",
        )


def variant_settings(base: TrainSettings, variant: Variant) -> TrainSettings:
    """Return the common settings for a variant; the published one keeps its bounded pooling."""
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
    on_matched: Callable[[Sequence[Matching]], None],
) -> Row:
    folder = settings.trained.get(variant)
    if folder is None:
        folder = train(variant_settings(settings.base, variant), quiet=quiet, on_matched=on_matched).folder
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
        pretrained=variant in settings.trained,
    )


def _drafted(
    found: Found, variant: Variant, opened: ModelFolder, model: HistGen, *, progress: TrainProgress
) -> DraftedSlide:
    case, bags = found.case, tuple(read_bag(path) for path in found.paths)
    for maker in map(maker_of, bags):
        sha256 = opened.encoder.get("sha256", maker.sha256)
        settings = {maker.settings, opened.encoder_settings} - {""}
        if maker.sha256 != sha256 or maker.width != model.config.input_dim or len(settings) > 1:
            raise InvalidInputError(
                "training-bags-differ",
                f"The bag of {case.id} is from a different tile encoder than the {variant} model's.",
                hint="Encode the slides with `histgen encode --encoder`, naming that model's folder.",
            )
    drafted = DraftedSlide(case, bags, draft_bags(model, opened, variant, case.id, bags))
    progress.advance(1, case.id)
    return drafted


def _check_variant(variant: Variant, opened: ModelFolder) -> None:
    mode = "published" if variant == "published" else "corrected"
    trained_as = opened.section("training").get("variant", variant)
    if opened.histgen.mode != mode or trained_as != variant:
        raise InvalidInputError(
            "training-comparison-variant",
            f"The model {opened.name} is not {variant} (mode {opened.histgen.mode}).",
            hint="For each variant, name a model folder that `histgen train --variant` wrote for it.",
        )


def _effort(folder: Path) -> tuple[int | None, float | None]:
    """Read epochs and seconds of training from the run's metrics.csv; None if it is not there."""
    try:
        with (folder / "training" / "metrics.csv").open(encoding="utf-8", newline="") as handle:
            last = list(csv.DictReader(handle))[-1]
        return round(float(last["epoch"])), float(last["seconds"])
    except (OSError, IndexError, KeyError, ValueError):
        return None, None


def draft_bags(
    model: HistGen, opened: ModelFolder, variant: Variant, owner_id: str, bags: Sequence[Bag]
) -> dict[str, Any]:
    """Draft one slide, or the slides of a case: {"slide_id", "text", "sentences"} as in draft.json.

    Decoding settings and calibration are the folder's. A mean-pooled draft has no evidence.
    """
    decoded, evidence = _decode(model, opened, variant, bags)
    tokens = decoded.tokens.tolist()
    generated = Generated(
        text=opened.tokenizer.decode(tokens),
        spans=token_spans(tokens, opened.tokenizer),
        logprobs=decoded.log_probs,
        evidence=evidence,
    )
    sentences, _ = make_sentences(generated, bags, report_model(opened), named=len(bags) > 1)
    listed = [sentence.model_dump(mode="json") for sentence in sentences]
    return {"slide_id": owner_id, "text": generated.text, "sentences": listed}


def _decode(
    model: HistGen, opened: ModelFolder, variant: Variant, bags: Sequence[Bag]
) -> tuple[Decoded, NDArray[np.float32]]:
    """Decode; evidence is float32[T, N] over the bags' tiles in their order (zeros for "mean-pooled")."""
    features = torch.from_numpy(prepare(bags, arrangement_of(variant)))[None]
    with torch.no_grad():
        memory = model.region_memory(features, torch.ones(features.shape[:2], dtype=torch.bool))
        decoded = decode(TorchStepper(model, memory), opened.decoding)[0]
    if variant == "mean-pooled":
        return decoded, np.zeros((len(decoded.tokens), sum(map(len, bags))), dtype=np.float32)
    starts = np.cumsum([0, *map(len, bags)])
    order = [start + _order(variant, bag) for start, bag in zip(starts, bags, strict=False)]
    places = arrange(np.concatenate(order), model.config.tiles_per_region, model.config.prototype_num)
    return decoded, tile_evidence(decoded.attention, memory.tile_weights[0].numpy(), places)


def _order(variant: Variant, bag: Bag) -> NDArray[np.int64]:
    """Return the rows of a bag in the order in which `prepare` passes them to the network."""
    if variant == "published" or not bag.has_places:
        return np.arange(len(bag))
    return tile_order(bag.xy, bag.span_px)


def render(rows: Sequence[Row], *, command: str, facts: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """Write the page in Markdown: the command, facts and notes, and the table with one column per variant."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [
        "# Published, corrected and mean-pooled HistGen",
        "",
        "Written by `histgen compare`; do not edit. The command that wrote it:",
        "",
        "<!-- run by make comparison -->",
        "```sh",
        command,
        "```",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        *(f"- {note}" for note in [*_effort_notes(rows), *notes]),
        "",
        *_line("", [row.variant for row in rows]),
        "|---|" + "---|" * len(rows),
        *(
            line
            for name in names
            for line in _line(_label(name, rows), [_figure(row, name, rows) for row in rows])
        ),
        *_line("Parameters", [f"{row.parameters:,}" for row in rows]),
        *_line("Seed", [str(row.origin.get("seed", _ABSENT)) for row in rows]),
        *_line("Training slides", [str(row.origin.get("slides", _ABSENT)) for row in rows]),
        *_line("Epochs run", [_shown(row.epochs, str) for row in rows]),
        *_line("Training minutes", [_shown(row.seconds, lambda s: f"{s / 60:.1f}") for row in rows]),
    ]
    return "\n".join(lines) + "\n"


def to_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table JSON-ready; None stands for what was not measured."""
    return {
        row.variant: {
            "figures": {name: _numbers(figure) for name, figure in row.figures.items()},
            "slides": row.slides,
            "parameters": row.parameters,
            "epochs": row.epochs,
            "seconds": row.seconds,
            "training": dict(row.origin),
        }
        for row in rows
    }


def _line(label: str, cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join([label, *cells])} |"]


def _label(name: str, rows: Sequence[Row]) -> str:
    counts = _counts(name, rows)
    return f"{name} (n = {counts.pop()})" if len(counts) == 1 else name


def _figure(row: Row, name: str, rows: Sequence[Row]) -> str:
    """Format a cell, with its own n if the columns' differ."""
    if name not in row.figures:
        return _ABSENT
    figure = row.figures[name]
    return figure.cell() + (f", n = {figure.count}" if len(_counts(name, rows)) > 1 else "")


def _counts(name: str, rows: Sequence[Row]) -> set[int]:
    return {row.figures[name].count for row in rows if name in row.figures} - {0}


def _shown(value: _T | None, show: Callable[[_T], str]) -> str:
    return _ABSENT if value is None else show(value)


def _effort_notes(rows: Sequence[Row]) -> list[str]:
    """Note models trained elsewhere and unequal budgets, so that nobody has to find them in the table."""
    budgets = {tuple(row.origin.get(name) for name in ("epochs", "batch_size", "slides")) for row in rows}
    pretrained = [row.variant for row in rows if row.pretrained]
    notes = [f"Trained beforehand, not by this command: {', '.join(pretrained)}."] if pretrained else []
    if len(budgets) > 1:
        notes.append("The budgets (epochs, batch size, slides) are not the same for all variants.")
    return notes


def _numbers(figure: Figure) -> dict[str, Any]:
    values = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()} | {
        "count": figure.count
    }

"""`histgen compare`: compares published, corrected and mean-pooled HistGen on the same bags, as one table."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from histgen_lib.cli.offline.cases import AllowMissing, MatchedCases, read_truth
from histgen_lib.cli.options import (
    ENCODER_META,
    encoder_choice,
    need_train_extra,
    writable_file,
    writable_folder,
)
from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import write_atomic

if TYPE_CHECKING:
    from histgen_lib.evaluation import EvaluationResult
    from histgen_lib.evaluation.bootstrap import Estimate
    from histgen_lib.training import DraftedSlide, Figure
    from histgen_lib.training.report.comparison import Row

Variant = Literal["published", "corrected", "mean-pooled"]


def compare(
    *,
    annotation: Annotated[
        Path, typer.Option("--annotation", metavar="FILE", help="annotation.json of the slides to score.")
    ],
    bags: Annotated[Path, typer.Option("--bags", metavar="DIR", help="Bags of the slides to score.")],
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the models trained here.",
            callback=writable_folder,
        ),
    ],
    table: Annotated[
        Path,
        typer.Option("--table", metavar="FILE", help="The page to write (Markdown).", callback=writable_file),
    ] = Path("docs/comparison.md"),
    split: Annotated[Literal["val", "test"], typer.Option("--split", help="Split to score.")] = "test",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="VARIANT=DIR", help="Existing model of a variant; can be repeated."
        ),
    ] = None,
    train_annotation: Annotated[
        Path | None,
        typer.Option(
            "--train-annotation",
            metavar="FILE",
            help="annotation.json of the slides to train on, if different.",
        ),
    ] = None,
    train_bags: Annotated[
        Path | None,
        typer.Option("--train-bags", metavar="DIR", help="Bags of the slides to train on, if different."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar=ENCODER_META, help="Tile encoder that made the bags, or its folder."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="DIR", help="truth/ of histgen synth; also scores the evidence."),
    ] = None,
    preset: Annotated[
        Literal["published", "small"], typer.Option("--preset", help="As in histgen train.")
    ] = "small",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Maximum number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Slides per step.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the training.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="The slides are synthetic.")] = False,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", help="Bootstrap resamples for 95 % intervals.")
    ] = 1000,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare HistGen's variants: train each one without a --model, score all, and write the table.

    An interrupted run resumes. Models passed with --model are scored as they are.

    For example:

      histgen compare --annotation world/annotation.json --bags bags --truth world/truth --encoder encoder
      --out runs/comparison --model corrected=model
    """
    need_train_extra("histgen compare")
    from histgen_lib.training import ComparisonSettings, TrainOverrides
    from histgen_lib.training import compare as run
    from histgen_lib.training import preset as make_settings

    base = dataclasses.replace(
        make_settings(
            preset, annotation=train_annotation or annotation, bags=train_bags or bags, out=out_dir
        ),
        encoder=encoder_choice(encoder) if encoder else None,
        synthetic=synthetic,
        threads=threads,
        allow_missing=allow_missing,
    )
    base = TrainOverrides(epochs=epochs, batch_size=batch_size, seed=seed).apply(base)
    settings = ComparisonSettings(base, annotation, bags, split, existing_models(model or []))
    cases = MatchedCases()
    rows = run(settings, lambda drafted: score(drafted, truth, bootstrap), on_matched=cases)
    _write(rows, table, split, bootstrap)
    _say(rows, table, cases, as_json=as_json)


def existing_models(arguments: Sequence[str]) -> dict[Variant, Path]:
    """Read VARIANT=DIR. InvalidInputError("compare-model-argument")."""
    found: dict[Variant, Path] = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        known: Sequence[Variant] = get_args(Variant)
        match = [variant for variant in known if variant == name]
        if not (match and equals and folder):
            raise InvalidInputError(
                "compare-model-argument",
                f"--model {argument} is not of the form VARIANT=DIR.",
                hint=f"Use VARIANT=DIR with one of {', '.join(known)}.",
            )
        found[match[0]] = Path(folder)
    return found


def score(drafted: Sequence[DraftedSlide], truth: Path | None, bootstrap: int) -> dict[str, Figure]:
    """Compute the figures of one variant's drafts, in the order of the table."""
    from histgen_lib.evaluation import Pair, evaluate_pairs

    pairs = [Pair(slide.case.id, slide.case.report, slide.draft["text"]) for slide in drafted]
    result = evaluate_pairs(pairs, bootstrap=bootstrap, with_meteor=False)
    return _text_figures(result) | _evidence_figures(drafted, truth, bootstrap)


def _text_figures(result: EvaluationResult) -> dict[str, Figure]:
    fields = {field.name: field for field in result.fields if field.references}
    ordered = ["diagnosis", *(name for name in fields if name != "diagnosis")]
    shown = {
        _TITLES.get(name, name.replace("_", " ").capitalize()): _figure(
            fields[name].accuracy, fields[name].references
        )
        for name in ordered
        if name in fields
    }
    texts = {title: _figure(result.metrics[name], share=False) for name, title in _TEXTS.items()}
    return shown | {"Whole report": _figure(result.metrics["exact_report"])} | texts


def _evidence_figures(
    drafted: Sequence[DraftedSlide], truth: Path | None, bootstrap: int
) -> dict[str, Figure]:
    """Compute hit rates of the strongest tiles, and those of chance; {} without truth or evidence."""
    from histgen_lib.evaluation import cases_from_draft, evidence_hit_rate

    cases = [
        case
        for slide in drafted
        if len(slide.bags) == 1
        and slide.bags[0].has_places
        and (known := read_truth(truth, slide.case.id)) is not None
        for case in cases_from_draft(slide.draft, known, slide.bags[0].xy, slide.bags[0].span_px)
    ]
    if not cases:
        return {}
    found = evidence_hit_rate(cases, bootstrap=bootstrap).overall
    return {title: _figure(getattr(found, name), found.cases) for name, title in _EVIDENCE.items()}


def _figure(estimate: Estimate, count: int = 0, *, share: bool = True) -> Figure:
    from histgen_lib.training import Figure

    return Figure(estimate.value, estimate.low, estimate.high, count, share)


def _write(rows: Sequence[Row], table: Path, split: str, bootstrap: int) -> None:
    from histgen_lib.training.report.comparison import render

    facts = {"Slides scored": f"{rows[0].slides}, split {split!r}"}
    if bootstrap:
        facts["Intervals"] = f"95 %, percentile bootstrap, {bootstrap} resamples of the slides"
    page = render(rows, command=command_line(sys.argv[1:]), facts=facts, notes=_NOTES)
    write_atomic(table, page.encode())


def command_line(arguments: Sequence[str]) -> str:
    """Format the command for anyone to type: absolute paths are reduced to their last part."""
    return shlex.join(["histgen", *(_relative(argument) for argument in arguments)])


def _relative(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    path = Path(value)
    return f"{name}{equals}{path.name}" if path.is_absolute() else argument


def _say(rows: Sequence[Row], table: Path, cases: MatchedCases, *, as_json: bool) -> None:
    from histgen_lib.training.report.comparison import to_dict

    if as_json:
        emit_json({"table": str(table), "variants": to_dict(rows), "cases": cases.to_dict()})
        return
    for row in rows:
        out().print(f"{row.variant}: {_summary(row.figures)}", soft_wrap=True)
    out().print(f"Table in {table}", soft_wrap=True)


def _summary(figures: Mapping[str, Figure]) -> str:
    shown = [name for name in (_TITLES["diagnosis"], "BLEU-4", _EVIDENCE["top1"]) if name in figures]
    return ", ".join(f"{name} {figures[name].cell()}" for name in shown)


_TITLES = {"diagnosis": "Exact diagnosis line"}
_TEXTS = {"BLEU_4": "BLEU-4", "ROUGE_L": "ROUGE-L"}
_EVIDENCE = {
    "top1": "Evidence: strongest tile on the lesion",
    "chance_top1": "… by chance",
    "top3": "Evidence: one of the three strongest",
    "chance_top3": "… one of three by chance",
}
_NOTES = (
    "`published` computes what the authors' released code computes; `corrected` differs as described in "
    "docs/training.md; `mean-pooled` is the corrected network on one tile, the mean of the slide's tiles.",
    "A field's n counts the slides whose reference states it. BLEU-4 and ROUGE-L are coco-caption's, on "
    "reports split at spaces.",
    "A mean-pooled draft has no evidence.",
)

"""`histgen evaluate`: scores drafts from a CSV of predictions or from a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histgen_lib.cli.offline.cases import AllowMissing
from histgen_lib.cli.options import InPrecision, OnDevice, Threads, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, number_of, out
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.evaluation import EvaluationResult


def evaluate(
    *,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Predictions and references, one pair per row."),
    ] = None,
    prediction_column: Annotated[
        str, typer.Option("--prediction-column", help="Column with the drafts.")
    ] = "prediction",
    reference_column: Annotated[
        str, typer.Option("--reference-column", help="Column with the reference reports.")
    ] = "reference",
    id_column: Annotated[str | None, typer.Option("--id-column", help="Column with the slide ids.")] = None,
    blank_references: Annotated[
        Literal["error", "keep", "skip"],
        typer.Option("--blank-references", help="What to do with rows without a reference."),
    ] = "keep",
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="DIR", help="Model to draft with, instead of --csv."),
    ] = None,
    annotation: Annotated[
        Path | None,
        typer.Option("--annotation", metavar="FILE", help="annotation.json with the reference reports."),
    ] = None,
    bags: Annotated[Path | None, typer.Option("--bags", metavar="DIR", help="Bags of the slides.")] = None,
    slides: Annotated[
        Path | None, typer.Option("--slides", metavar="DIR", help="Slides, if there are no bags.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="DIR", help="truth/ of histgen synth; also scores the evidence."),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Split to score.")
    ] = "test",
    tokenize: Annotated[
        Literal["none", "ptb"],
        typer.Option(
            "--tokenize", help="none: split at spaces, as HistGen does. ptb: coco-caption's tokenizer."
        ),
    ] = "none",
    meteor: Annotated[bool, typer.Option("--meteor/--no-meteor", help="Score METEOR; needs Java.")] = True,
    entities: Annotated[str, typer.Option("--entities", help="REG2025's entity part.")] = "lexical",
    embedding: Annotated[
        str, typer.Option("--embedding", help="REG2025's embedding part.")
    ] = "hashed-ngrams",
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", help="Bootstrap resamples for 95 % intervals; 0: none.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resampling.")] = 0,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Also write metrics.json, metrics.csv, cases.csv, and predictions.csv for --csv.",
            callback=writable_folder,
        ),
    ] = None,
    device: OnDevice = "cpu",
    precision: InPrecision = "float32",
    threads: Threads = None,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Score drafts: BLEU, METEOR, ROUGE-L, REG2025, fields; with a model also calibration and evidence.

    Run it twice, with and without --precision float16, to see what a number format costs.

    For example:

      histgen evaluate --model model --annotation world/annotation.json --bags bags --truth world/truth
      --bootstrap 1000 --out scores

      histgen evaluate --csv scores/predictions.csv --id-column id --tokenize ptb
    """
    from histgen_lib.cli.offline.scoring import ModelRun, run_model, write_tables
    from histgen_lib.evaluation import RegParts, evaluate_pairs, read_pairs_csv

    _check(csv, annotation, bags, slides)
    run = None
    if csv is not None:
        pairs = read_pairs_csv(
            csv,
            prediction_column=prediction_column,
            reference_column=reference_column,
            id_column=id_column,
            blank_references=blank_references,
        )
    else:
        assert annotation is not None
        model_run = ModelRun(
            model,
            annotation,
            bags,
            slides,
            truth,
            split,
            threads,
            bootstrap,
            seed,
            allow_missing=allow_missing,
            device=device,
            precision=precision,
        )
        run = run_model(model_run)
        pairs = run.pairs
    parts = RegParts(entities, embedding)
    result = evaluate_pairs(
        pairs, tokenize=tokenize, bootstrap=bootstrap, seed=seed, with_meteor=meteor, parts=parts
    )
    content = result.to_dict() | (run.to_dict() if run else {})
    if out_dir is not None:
        write_tables(out_dir, content, result, pairs)
    if as_json:
        emit_json(content)
    else:
        _print(result, content)


def _check(csv: Path | None, annotation: Path | None, bags: Path | None, slides: Path | None) -> None:
    if csv is None and (annotation is None or (bags is None) == (slides is None)):
        raise InvalidInputError(
            "evaluate-source-missing",
            "There is nothing to evaluate.",
            hint="Use --csv FILE, or --annotation FILE with either --bags DIR or --slides DIR.",
        )
    if csv is not None and annotation is not None:
        raise InvalidInputError(
            "evaluate-source-double", "--csv and --annotation cannot be combined.", hint="Use one of them."
        )


def _print(result: EvaluationResult, content: dict[str, Any]) -> None:
    from rich.table import Table

    title = number_of(result.pairs, "report")
    table = Table("Metric", "Value", "95 % interval", title=title, title_justify="left")
    rows = [(name, estimate) for name, estimate in content["metrics"].items()]
    rows += [(f"field {name}", score) for name, score in content["fields"].items()]
    rows += [
        (f"sentence {name}", content["calibration"][name])
        for name in _CALIBRATION
        if "calibration" in content
    ]
    rows += [
        (f"evidence {name}", content["evidence"]["overall"][name])
        for name in _EVIDENCE
        if "evidence" in content
    ]
    for name, value in rows:
        table.add_row(name, *_numbers(value))
    out().print(table)
    for note in content["notes"]:
        out().print(note, soft_wrap=True)


_CALIBRATION = ("accuracy", "expected_calibration_error", "brier")
_EVIDENCE = ("top1", "top3", "chance_top1", "chance_top3")


def _numbers(value: dict[str, Any]) -> tuple[str, str]:
    estimate = value.get("accuracy", value) if "value" not in value else value
    low, high = estimate.get("low"), estimate.get("high")
    number = estimate.get("value")
    interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return ("" if number is None else f"{number:.4f}"), interval

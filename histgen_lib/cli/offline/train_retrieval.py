"""`histgen train-retrieval`: gives a model folder its retrieval network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.offline.cases import AllowMissing, MatchedCases
from histgen_lib.cli.options import Model, Out, model_folder, need_train_extra
from histgen_lib.cli.output import JsonFlag, emit_json, out

if TYPE_CHECKING:
    from histgen_lib.training.retrieval.train import RetrievalResult


def train_retrieval(
    *,
    annotation: Annotated[
        Path,
        typer.Option("--annotation", metavar="FILE", help="annotation.json in HistGen's published layout."),
    ],
    bags: Annotated[
        Path,
        typer.Option("--bags", metavar="DIR", help="Bags of the slides, by the model's own tile encoder."),
    ],
    out_dir: Out,
    model: Model = None,
    preset: Annotated[
        Literal["published", "small"],
        typer.Option("--preset", help="published: FGCR's sizes and settings. small: on a CPU."),
    ] = "small",
    mode: Annotated[
        Literal["published", "corrected"] | None,
        typer.Option(
            "--mode",
            help="What the authors' code computes, or the corrected network. Default: the preset's "
            "(small: corrected).",
        ),
    ] = None,
    prompts: Annotated[int | None, typer.Option("--prompts", min=1, help="Prompts to mine at most.")] = None,
    min_count: Annotated[
        int | None, typer.Option("--min-count", min=1, help="Words that occur less often become unknown.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Maximum number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2, help="Slides per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Peak learning rate.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--precision", help="Number format; mixed precision except float32."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option("--device", help="What to compute on.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of all random numbers.")] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Epochs without a better validation score before training stops."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the network that finds cases alike (FGCR) on bags and reports. Needs the train extra.

    OUT becomes a copy of MODEL with that network and its ONNX files; it may be MODEL itself. Metrics go to
    OUT/training/retrieval. An interrupted run resumes. The test split is not used; the validation split
    stops the training, and sets the thresholds by which drafts flag lines that no region supports.

    For example:

      histgen train-retrieval --annotation world/annotation.json --bags bags --model model --out model
    """
    need_train_extra("histgen train-retrieval")
    from histgen_lib.training.retrieval.settings import RetrievalOverrides, in_mode, retrieval_preset
    from histgen_lib.training.retrieval.train import train_retrieval as run

    overrides = RetrievalOverrides(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        device=device,
        seed=seed,
        prompts=prompts,
        word_threshold=min_count,
        patience_epochs=patience,
    )
    chosen = retrieval_preset(
        preset, annotation=annotation, bags=bags, model=model_folder(model), out=out_dir
    )
    settings = dataclasses.replace(
        in_mode(chosen, mode) if mode else chosen, threads=threads, allow_missing=allow_missing
    )
    cases = MatchedCases()
    result = run(overrides.apply(settings), on_matched=cases)
    _finish(result, cases, as_json)


def _finish(result: RetrievalResult, cases: MatchedCases, as_json: bool) -> None:
    from histgen_lib.export.onnx import retrieval_to_onnx

    retrieval_to_onnx(result.folder)
    if as_json:
        content = {
            "model": str(result.folder),
            "prompts": list(result.prompts),
            "validation": result.best,
            "seconds": round(result.seconds, 1),
        }
        emit_json(content | {"cases": cases.to_dict()})
        return
    out().print(f"Model in {result.folder} after {result.seconds / 60:.1f} minutes", soft_wrap=True)
    for metric, value in result.best.items():
        out().print(f"  {metric} {value:.4f}")

"""`histgen synth`: draws synthetic slides with true reports."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from histgen_lib.cli.options import Out
from histgen_lib.cli.output import JsonFlag, emit_json, number_of, out


def synth(
    *,
    out_dir: Out,
    count: Annotated[int, typer.Option("--count", "-n", help="Number of slides.")] = 20,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed gives the same slides, byte for byte.")
    ] = 0,
    start: Annotated[int, typer.Option("--start", help="Index of the first slide.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. Default: one per core.")
    ] = None,
    split: Annotated[
        Literal["mixed", "train", "val", "test"],
        typer.Option("--split", help="Split of all slides in annotation.json; mixed: by the shares."),
    ] = "mixed",
    val_share: Annotated[float, typer.Option("--val-share", help="Share of the validation split.")] = 0.1,
    test_share: Annotated[float, typer.Option("--test-share", help="Share of the test split.")] = 0.1,
    as_json: JsonFlag = False,
) -> None:
    """Draw synthetic H&E slides, each with a report and the ground truth behind every field.

    Writes DIR/slides/<id>.tif, truth/<id>.json, truth/<id>.png and annotation.json. An interrupted run
    resumes.

    For example:

      histgen synth --count 60 --seed 7 --out world

      histgen synth --count 10 --seed 3 --split test --out held-out
    """
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.synth import generate

    with progress_bar("Drawing", "slides") as bar:
        annotation = generate(
            out_dir,
            count,
            seed,
            start=start,
            workers=workers,
            split=split,
            val_share=val_share,
            test_share=test_share,
            progress=lambda done, total: bar("slides", done, total),
        )
    if as_json:
        emit_json({"out": str(out_dir), "count": count, "seed": seed, "annotation": str(annotation)})
    else:
        drawn = number_of(count, "slide")
        out().print(
            f"{drawn} of seed {seed} in {out_dir}; reports in {annotation}",
            soft_wrap=True,
        )

"""`histgen mine-prompts`: the words and phrases that stand for the topics of an annotation's reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, out


def mine_prompts(
    *,
    annotation: Annotated[
        Path, typer.Option("--annotation", metavar="FILE", help="annotation.json with the reports.")
    ],
    count: Annotated[int, typer.Option("--count", min=1, max=500, help="Prompts at most.")] = 25,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Split whose reports are read.")
    ] = "train",
    as_json: JsonFlag = False,
) -> None:
    """Mine prompts from reports, of any organ and in any language: the most telling first.

    histgen train-retrieval does the same with the training reports. Beside each prompt stands the share of
    the reports that it occurs in.

    For example:

      histgen mine-prompts --annotation world/annotation.json --count 10
    """
    from histgen_lib.models.fgcr import prompts
    from histgen_lib.training.annotation import read_annotation

    reports = [case.report for case in read_annotation(annotation).split(split) if case.report.strip()]
    found = prompts.mine_prompts(reports, count)
    shares = prompts.prompt_sets(reports, found).mean(axis=0).tolist()
    if as_json:
        listed = [
            {"prompt": prompt, "share": round(share, 4)} for prompt, share in zip(found, shares, strict=True)
        ]
        emit_json({"reports": len(reports), "prompts": listed})
        return
    for prompt, share in zip(found, shares, strict=True):
        out().print(f"{share:6.1%}  {prompt}", markup=False, highlight=False, soft_wrap=True)

"""`histgen doctor`: what is installed, what is missing, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histgen_lib.cli.checks import Check, all_checks
from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out

UNHEALTHY = 78  # EX_CONFIG of sysexits.h
_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    model: Model = None,
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Where drafts would go: checks room and rights."),
    ] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """Check this installation: pass, warn or fail, and the fix for each.

    Leaves with 78 if anything fails; warnings are about what only some commands need.

    For example:

      histgen doctor

      histgen doctor --model runs/mine --json
    """
    checks = all_checks(model_folder(model), out_dir)
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        emit_json({"healthy": not failed, "checks": [check.to_dict() for check in checks]})
    else:
        _print(checks)
    raise typer.Exit(UNHEALTHY if failed else 0)


def _print(checks: list[Check]) -> None:
    console = out()
    for check in checks:
        console.print(check.status, style=_STYLES[check.status], end=" ", soft_wrap=True)
        console.print(f"{check.name}: {check.detail}", soft_wrap=True)
        if check.fix and check.status != "pass":
            console.print(f"     → {check.fix}", soft_wrap=True)
    counts = {status: sum(c.status == status for c in checks) for status in _STYLES}
    console.print(f"{counts['pass']} passed, {counts['warn']} warnings, {counts['fail']} failed.")

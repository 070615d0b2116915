"""What the demo prints: drafts with the ground truth beside them, dead letters with their cure, figures."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from histgen_lib.cli.output import out

_WIDTH = 78
_FOREIGN = "OUT OF DISTRIBUTION: the slide is unlike those the model was trained on; do not use this draft."


def print_results(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print every slide's end and how it went as a whole."""
    console = out()
    console.print("\nAI-generated drafts, not for clinical use\n", style="bold")
    for row in rows:
        if row["error"]:
            _print_letter(row)
        else:
            _print_draft(row)
    _print_summary(rows, summary)


def _print_draft(row: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Draft", title=row["slide_id"], title_justify="left", min_width=_WIDTH)
    if row["report"] is None:
        table.add_row(Text(row["draft"]))
    else:
        table.add_column("Ground truth")
        table.add_row(_marked(row["draft"], row["report"]), Text(row["report"]))
    out().print(table)
    if row["out_of_distribution"]:
        out().print(_FOREIGN, style="bold red", soft_wrap=True)
    notes = [f"{row['right']} of {row['fields']} fields right"] if row["fields"] else []
    if row["abstained"]:
        notes.append("the model abstains")
    notes.append(f"{row['seconds']:.1f} s from scan to draft")
    out().print("; ".join(notes), soft_wrap=True)
    out().print(f"{row['page']}\n", style="dim", soft_wrap=True)


def _print_letter(row: Mapping[str, Any]) -> None:
    console, error = out(), row["error"]
    console.print(row["slide_id"], style="italic", soft_wrap=True)
    console.print(f"dead letter[{error['code']}]:", style="bold red", end=" ", soft_wrap=True)
    console.print(error["message"], soft_wrap=True)
    console.print(f"→ {error['hint']}\n", soft_wrap=True)


def _print_summary(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    console = out()
    drawn = [row for row in rows if row["fields"]]
    right, total = sum(row["right"] for row in drawn), sum(row["fields"] for row in drawn)
    console.print(
        f"{summary['drafts']} drafts and {summary['dead_letters']} dead letters of {len(rows)} slides "
        f"in {summary['seconds']:.0f} s: {summary['slides_per_minute']:.1f} slides a minute.",
        soft_wrap=True,
    )
    if summary["scan_to_draft_p50_s"] is not None:
        console.print(
            f"From scan to draft {summary['scan_to_draft_p50_s']:.1f} s (median), "
            f"{summary['scan_to_draft_max_s']:.1f} s (longest); the stack was ready after "
            f"{summary['ready_seconds']:.1f} s.",
            soft_wrap=True,
        )
    console.print(
        f"{right} of {total} fields right on {len(drawn)} drawn slides that the model has never seen.",
        soft_wrap=True,
    )
    _print_next_steps(rows, str(summary["home"]))


def _print_next_steps(rows: Sequence[Mapping[str, Any]], home: str) -> None:
    histgen = _program()
    unscaled = [row["path"] for row in rows if row["error"] and row["error"]["code"] == "slide-mpp-unknown"]
    lines = [
        f"\nEverything lies in {home}: drafts in objects/reports, logs in logs.",
        f"Look again: {histgen} status --home {home}",
        f"Go on:      {histgen} up --home {home}",
        *(f"and then:   {histgen} submit {path} --mpp 0.25 --wait --home {home}" for path in unscaled),
    ]
    for line in lines:
        out().print(line, soft_wrap=True)


def _program() -> str:
    """Say how this command line is called from here."""
    return "histgen" if shutil.which("histgen") else os.path.relpath(sys.argv[0])


def _marked(draft: str, truth: str) -> Any:
    """Show in red the lines of the draft that the truth does not have."""
    from rich.text import Text

    true = {line.strip() for line in truth.splitlines()}
    lines = [Text(line, style="" if line.strip() in true else "bold red") for line in draft.splitlines()]
    return Text("\n").join(lines)

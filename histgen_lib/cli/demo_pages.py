"""What the demo prints: drafts with the ground truth beside them, dead letters with their cure, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from histgen_lib.cli.output import out

_WIDTH = 78
_FOREIGN = "OUT OF DISTRIBUTION: the slide is unlike those the model was trained on; do not use this draft."


def print_results(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print every slide's end and how it went as a whole."""
    console = out()
    console.print("AI-generated drafts, not for clinical use\n", style="bold")
    for row in rows:
        if row["error"]:
            _print_letter(row)
        else:
            _print_draft(row)
    _print_summary(rows, summary)


def _print_draft(row: Mapping[str, Any]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only on a screen
    from rich.text import Text  # noqa: PLC0415

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
    console.print(
        f"\nEverything lies in {summary['home']}: drafts in objects/reports, logs in logs.", soft_wrap=True
    )
    console.print(f"Look again: histgen status --home {summary['home']}", style="dim", soft_wrap=True)
    console.print(f"Go on:      histgen up --home {summary['home']}", style="dim", soft_wrap=True)
    for row in rows:
        if row["error"] and row["error"]["code"] == "slide-mpp-unknown":
            line = f"and then:   histgen submit {row['path']} --mpp 0.25 --wait --home {summary['home']}"
            console.print(line, style="dim", soft_wrap=True)


def _marked(draft: str, truth: str) -> Any:
    """Show in red the lines of the draft that the truth does not have."""
    from rich.text import Text  # noqa: PLC0415 - only on a screen

    true = {line.strip() for line in truth.splitlines()}
    lines = [Text(line, style="" if line.strip() in true else "bold red") for line in draft.splitlines()]
    return Text("\n").join(lines)

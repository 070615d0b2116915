"""`histgen demo`: a few synthetic slides through the whole path, with the ground truth beside each draft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from histgen_lib.cli.options import Model, Threads
from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.cli.report import Outcome, draft_all, exit_code, make_job

UNSEEN_SEED = 2026_11
"""Never used in training: the demo model has not seen these slides."""


def demo(
    *,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for slides and drafts.")
    ] = Path("out/demo"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many slides.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the slides.")] = UNSEEN_SEED,
    model: Model = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw synthetic slides, draft their reports, and show the ground truth beside each draft.

    Slides go to DIR/world, drafts to DIR/reports/<slide>/.

    For example:

      histgen demo --out out/demo --count 6
    """
    from histgen_lib.cli.progress import progress_bar  # noqa: PLC0415 - rich only when there is work
    from histgen_lib.synth import generate  # noqa: PLC0415

    job = make_job(out_dir / "reports", model=model, threads=threads)
    world = out_dir / "world"
    with progress_bar("Drawing", "slides") as bar:
        annotation = generate(
            world, count, seed, split="test", progress=lambda done, total: bar("slides", done, total)
        )
    cases = json.loads(annotation.read_bytes())["test"]
    outcomes = draft_all([world / case["image_path"][0] for case in cases], job, show=False)
    truths = [json.loads((world / "truth" / f"{case['id']}.json").read_bytes()) for case in cases]
    rows = [_row(outcome, truth) for outcome, truth in zip(outcomes, truths, strict=True)]
    if as_json:
        emit_json({"slides": rows})
    else:
        _print(rows)
    raise typer.Exit(exit_code(outcomes))


def _row(outcome: Outcome, truth: dict[str, Any]) -> dict[str, Any]:
    draft = outcome.result.draft if outcome.result else None
    fields = draft.fields if draft else {}
    return {
        "slide_id": truth["slide_id"],
        "report": truth["report"],
        "draft": draft.text if draft else None,
        "abstained": draft.abstained if draft else None,
        "out_of_distribution": draft.out_of_distribution.flag if draft else None,
        "confidence": draft.confidence if draft else None,
        "right": sum(fields.get(name) == value for name, value in truth["fields"].items()),
        "fields": len(truth["fields"]),
        "page": str(outcome.result.folder / "draft.html") if outcome.result else None,
        "error": outcome.failure.to_dict() if outcome.failure else None,
    }


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only on a screen
    from rich.text import Text  # noqa: PLC0415

    console = out()
    console.print("AI-generated drafts of synthetic slides, not for clinical use\n", style="bold")
    for row in rows:
        table = Table("Draft", "Ground truth", title=row["slide_id"], title_justify="left", min_width=78)
        draft = row["draft"] if row["draft"] is not None else f"error[{row['error']['code']}]"
        table.add_row(_marked(draft, row["report"]), Text(row["report"]))
        console.print(table)
        note = "" if not row["abstained"] else "; the model abstains"
        console.print(
            f"{row['right']} of {row['fields']} fields right{note}; {row['page']}\n", soft_wrap=True
        )
    right, total = sum(row["right"] for row in rows), sum(row["fields"] for row in rows)
    console.print(f"{right} of {total} fields right on {len(rows)} slides that the model has never seen.")


def _marked(draft: str, truth: str) -> Any:
    """Show in red the lines of the draft that the truth does not have."""
    from rich.text import Text  # noqa: PLC0415 - only on a screen

    true = {line.strip() for line in truth.splitlines()}
    lines = [Text(line, style="" if line.strip() in true else "bold red") for line in draft.splitlines()]
    return Text("\n").join(lines)

"""`histgen model` shows, imports, exports, copies and measures model folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histgen_lib.cli.offline.export import export_graphs
from histgen_lib.cli.offline.import_official import import_official
from histgen_lib.cli.offline.model_sync import sync
from histgen_lib.cli.options import Threads, model_folder, need_train_extra
from histgen_lib.cli.output import JsonFlag, emit_json, out

if TYPE_CHECKING:
    from histgen_lib.models.folder import ModelFolder
    from histgen_lib.reports.record import EvidenceCheck


app = typer.Typer(help="Show, import, export, copy and measure models.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Argument(metavar="[MODEL]", help="Model folder. Default: the synthetic demo model.")
]


@app.command()
def info(folder: Folder = None, as_json: JsonFlag = False) -> None:
    """Show a model: sizes, tiling, encoder, abstention threshold, and its files with their digests.

    For example:

      histgen model info

      histgen model info runs/mine --json
    """
    from histgen_lib.models.folder import open_model_folder

    facts = facts_of(open_model_folder(model_folder(folder)))
    if as_json:
        emit_json(facts)
    else:
        print_facts(facts)


app.command("import-official")(import_official)


app.command("export")(export_graphs)


app.command("sync")(sync)


@app.command()
def measure(
    folder: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model folder to measure; its config.json is updated.")
    ],
    *,
    annotation: Annotated[
        Path, typer.Option("--annotation", metavar="FILE", help="annotation.json with the reference reports.")
    ],
    truth: Annotated[
        Path, typer.Option("--truth", metavar="DIR", help="truth/ of histgen synth, with the lesions.")
    ],
    bags: Annotated[Path, typer.Option("--bags", metavar="DIR", help="Bags of the slides.")],
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Split to measure on.")
    ] = "val",
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how often a model's evidence is right, per field, and store the figures in its config.json.

    Drafts then state for each line how often the strongest tile of such lines showed the finding, and show no
    tiles if that is too rare. Use slides that nothing was trained on. Needs the train extra.

    For example:

      histgen model measure runs/mine --annotation world/annotation.json --truth world/truth --bags bags
    """
    need_train_extra("histgen model measure")
    from histgen_lib.cli.offline.scoring import ModelRun, run_model
    from histgen_lib.evaluation import evidence_figures
    from histgen_lib.models.histgen.checkpoint import update_config

    drafts = run_model(ModelRun(folder, annotation, bags, None, truth, split, threads, bootstrap=0, seed=0))
    figures = evidence_figures(drafts.evidence)
    update_config(folder, evidence=figures.to_config())
    checks = [figures.check_field(name) for name in figures.fields]
    if as_json:
        emit_json({"model": str(folder), "evidence": [check.model_dump() for check in checks]})
    else:
        _print_checks(checks)


def facts_of(model: ModelFolder) -> dict[str, Any]:
    """Return what `histgen model info --json` prints."""
    from histgen_lib.files import sha256_file

    files = model.files()
    calibration = model.section("calibration")
    return {
        "path": str(model.path),
        "name": model.name,
        "synthetic": model.synthetic,
        "sha256": model.digest,
        "histgen": model.histgen.to_json(),
        "tiling": dict(model.tiling),
        "encoder": dict(model.encoder),
        "decoding": dict(model.config["decoding"]),
        "domain": dict(model.section("domain")),
        "abstention": dict(model.section("abstention")),
        "calibration": {k: v for k, v in calibration.items() if k not in ("x", "y")},
        "evidence": {
            name: f"{counts['hits']} of {counts['lines']}"
            for name, counts in model.section("evidence").get("fields", {}).items()
        },
        "retrieval": {"sha256": model.retrieval_digest, **model.retrieval.get("network", {})}
        if model.retrieval
        else {},
        "consistency": dict(model.retrieval.get("consistency") or {}),
        "files": [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files],
    }


def print_facts(facts: dict[str, Any]) -> None:
    """Print what `facts_of` returned."""
    from rich.table import Table

    console = out()
    kind = ": trained on synthetic slides only" if facts["synthetic"] else ""
    console.print(f"{facts['name']}{kind}", style="bold", soft_wrap=True)
    console.print(f"{facts['path']}\nsha256 {facts['sha256']}", style="dim", soft_wrap=True)
    for section in (
        "histgen",
        "tiling",
        "encoder",
        "decoding",
        "domain",
        "abstention",
        "calibration",
        "evidence",
        "retrieval",
    ):
        stated = {key: value for key, value in facts[section].items() if value != ""}
        pairs = ", ".join(f"{key} {_short(value)}" for key, value in stated.items())
        console.print(f"{section:12} {pairs or 'none'}", soft_wrap=True)
    _print_consistency(facts["consistency"])
    table = Table("File", "Size", "SHA-256", box=None, pad_edge=False)
    for file in facts["files"]:
        table.add_row(file["name"], f"{file['bytes'] / 1e6:.2f} MB", file["sha256"][:16] + "…")
    console.print(table)


def _print_consistency(stated: dict[str, Any]) -> None:
    """Print how often lines were flagged when the consistency check was measured, by the field they state."""
    from rich.table import Table

    from histgen_lib.pipeline.consistency import Consistency

    check = Consistency.from_config(stated)
    measured = {"all lines": check.lines, **check.fields}
    table = Table("Lines checked", "Score needed", "Wrong ones flagged", "Right ones flagged", box=None)
    for name, figures in measured.items():
        if figures is not None:
            wrong = f"{figures.wrong_flagged} of {figures.wrong}"
            right = f"{figures.right_flagged} of {figures.right}"
            table.add_row(name.replace("_", " "), f"{figures.threshold:.2f}", wrong, right)
    if table.row_count:
        out().print(table)
    if check.unchecked:
        out().print(f"Never checked: {', '.join(sorted(check.unchecked)).replace('_', ' ')}", soft_wrap=True)


def _print_checks(checks: Sequence[EvidenceCheck]) -> None:
    from rich.table import Table

    from histgen_lib.reports.notices import percent

    table = Table("Field", "Strongest tile shows it", "At least (95 %)", "Shown as evidence", box=None)
    for check in checks:
        rate, low = f"{check.hits} of {check.lines}", percent(check.low)
        table.add_row(check.field.replace("_", " "), rate, low, "yes" if check.reliable else "no")
    out().print(table)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:16] + "…"

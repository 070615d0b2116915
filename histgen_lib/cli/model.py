"""`histgen model`: look at a model folder, make one from published weights, export one for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.extras import need_train_extra
from histgen_lib.cli.options import model_folder, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out

if TYPE_CHECKING:
    from histgen_lib.models.histgen.folder import ModelFolder

app = typer.Typer(help="Look at, import and export models.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Argument(metavar="[MODEL]", help="Model folder. Default: the synthetic demo model.")
]


@app.command()
def info(folder: Folder = None, as_json: JsonFlag = False) -> None:
    """Say what a model is: sizes, tiles, encoder, when it abstains, and its files with their digests.

    For example:

      histgen model info

      histgen model info runs/mine --json
    """
    from histgen_lib.models.histgen.folder import open_model_folder  # noqa: PLC0415 - only when a model is read

    facts = _facts(open_model_folder(model_folder(folder)))
    if as_json:
        emit_json(facts)
    else:
        _print(facts)


@app.command("import-official")
def import_official(
    checkpoint: Annotated[
        Path, typer.Argument(help="Weights trained with the authors' HistGen code (.pth).")
    ],
    *,
    annotation: Annotated[
        Path, typer.Option("--annotation", help="The annotation.json it was trained on: its vocabulary.")
    ],
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="New model folder.", callback=writable_folder),
    ],
    name: Annotated[
        str, typer.Option("--name", help="What the model is called in provenance.")
    ] = "histgen-official",
    threshold: Annotated[
        int, typer.Option("--threshold", help="Least count of a word, as in training.")
    ] = 10,
    num_heads: Annotated[
        int | None, typer.Option("--num-heads", help="Attention heads, as in training; usually 8.")
    ] = None,
    region_size: Annotated[
        int | None,
        typer.Option("--region-size", help="Tiles a region, as in training. Default: as the weights tell."),
    ] = None,
    topk: Annotated[int | None, typer.Option("--topk", help="Memory rows asked for, as in training.")] = None,
    prototype_num: Annotated[
        int | None, typer.Option("--prototype-num", help="Prototypes, as in training.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest report in words. Default: 100.")
    ] = None,
    tile_px: Annotated[
        int, typer.Option("--tile-px", help="Side of the tiles the features came from.")
    ] = 256,
    tile_mpp: Annotated[float, typer.Option("--tile-mpp", help="µm per pixel of those tiles.")] = 0.5,
    encoder: Annotated[
        str, typer.Option("--encoder", help="Name of the tile encoder that made the features.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a model folder from weights trained with the published HistGen code. Needs the train extra.

    The model then drafts from bags (.h5, .pt, .parquet) of the same tile encoder; it has no statistics of its
    training world, so every draft says that it was not checked against it. Sizes that the weights do not tell
    have to be stated: a wrong one loads, and gives wrong reports.

    For example:

      histgen model import-official model_best.pth --annotation annotation.json --num-heads 8 --topk 512
      --prototype-num 512 --out models/official
    """
    need_train_extra("histgen model import-official")
    from histgen_lib.cli.importing import OfficialSource, import_weights  # noqa: PLC0415 - torch

    source = OfficialSource(
        checkpoint=checkpoint,
        annotation=annotation,
        threshold=threshold,
        sizes={
            "num_heads": num_heads,
            "region_size": region_size,
            "topk": topk,
            "prototype_num": prototype_num,
            "max_seq_length": max_tokens,
        },
        tiling={"tile_px": tile_px, "mpp": tile_mpp, "overlap_px": 0, "min_tissue": 0.15},
        encoder=encoder,
    )
    facts = _facts(import_weights(source, out_dir, name))
    if as_json:
        emit_json(facts)
    else:
        _print(facts)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder with its weights.")],
    as_json: JsonFlag = False,
) -> None:
    """Write the model's networks as ONNX files into its folder, so that it runs without torch.

    Needs the train extra.

    For example:

      histgen model export runs/mine
    """
    need_train_extra("histgen model export")
    from histgen_lib.export import to_onnx  # noqa: PLC0415 - torch

    written = [str(path) for path in to_onnx(folder)]
    if as_json:
        emit_json({"model": str(folder), "written": written})
    else:
        out().print("\n".join(written), soft_wrap=True)


def _facts(model: ModelFolder) -> dict[str, Any]:
    from histgen_lib.files import sha256_file  # noqa: PLC0415
    from histgen_lib.models.histgen.folder import FILES  # noqa: PLC0415

    files = [model.path / name for name in FILES if (model.path / name).is_file()]
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
        "files": [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files],
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only on a screen

    console = out()
    kind = (
        "trained on synthetic slides only"
        if facts["synthetic"]
        else "see its card for what it was trained on"
    )
    console.print(f"{facts['name']}: {kind}", style="bold", soft_wrap=True)
    console.print(f"{facts['path']}\nsha256 {facts['sha256']}", style="dim", soft_wrap=True)
    for section in ("histgen", "tiling", "encoder", "decoding", "domain", "abstention", "calibration"):
        pairs = ", ".join(f"{key} {_short(value)}" for key, value in facts[section].items())
        console.print(f"{section:12} {pairs or 'none'}", soft_wrap=True)
    table = Table("File", "Size", "SHA-256", box=None, pad_edge=False)
    for file in facts["files"]:
        table.add_row(file["name"], f"{file['bytes'] / 1e6:.2f} MB", file["sha256"][:16] + "…")
    console.print(table)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:16] + "…"

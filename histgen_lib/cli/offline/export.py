"""`histgen export` writes Triton repositories; `histgen model export` the graphs that they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.options import expand, model_folder, need_train_extra, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.errors import InvalidInputError
from histgen_lib.export.targets import export_to, target_summaries

_TARGETS = target_summaries()

if TYPE_CHECKING:
    Target = str
else:
    Target = Literal[tuple(_TARGETS)]

Number = Literal["float32", "float16", "bfloat16", "int8"]


def export_graphs(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder with its weights.")],
    *,
    precision: Annotated[
        Literal["float32", "int8"], typer.Option("--precision", help="int8: that of the tile encoder.")
    ] = "float32",
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate", metavar="SLIDE", help="For int8: a slide like those to come, or a folder; repeat."
        ),
    ] = None,
    tiles: Annotated[
        int, typer.Option("--tiles", min=16, help="For int8: tiles to take from the slides.")
    ] = 256,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="For int8: the new model folder.", callback=writable_folder
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a model's networks to its folder as ONNX files, so that it runs without torch.

    Needs the train extra. With --precision int8, the model folder (which then needs its ONNX files) is copied
    with its tile encoder in int8, and what that costs is measured on tiles not used to calibrate it.

    For example:

      histgen model export runs/mine

      histgen model export runs/mine --precision int8 --calibrate scans --out runs/mine-int8
    """
    need_train_extra("histgen model export")
    if precision == "int8":
        _export_int8(folder, calibrate or [], out_dir, tiles, as_json)
        return
    from histgen_lib.export import to_onnx

    written = [str(path) for path in to_onnx(folder)]
    if as_json:
        emit_json({"model": str(folder), "written": written})
    else:
        out().print("\n".join(written), soft_wrap=True)


def _export_int8(folder: Path, calibrate: list[str], out_dir: Path | None, tiles: int, as_json: bool) -> None:
    from histgen_lib.export.int8_folder import int8_folder

    if out_dir is None or not calibrate:
        raise InvalidInputError(
            "export-int8",
            "An encoder in int8 needs slides to be calibrated on, and a model folder of its own.",
            hint="Give --calibrate SLIDE (a few times, or a folder) and --out DIR.",
        )
    found = int8_folder(folder, out_dir, expand(calibrate), tiles).to_config()
    if as_json:
        emit_json({"model": str(out_dir), "encoder": found})
        return
    out().print(f"Model in {out_dir}", soft_wrap=True)
    out().print(
        f"  cosine to float32 {found['cosine']:.4f} on average, {found['lowest']:.4f} at worst, "
        f"{found['centred']:.4f} about the mean feature ({found['held_out_tiles']} held-out tiles)\n"
        f"  {found['kept']} of {found['layers']} layers stay in float",
        soft_wrap=True,
    )


def export_repository(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="Model folder. Default: the synthetic demo model."),
    ] = None,
    *,
    target: Annotated[
        Target,
        typer.Option("--target", help=" ".join(f"{name}: {text}" for name, text in _TARGETS.items())),
    ],
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the model repository.", callback=writable_folder
        ),
    ],
    precision: Annotated[
        Number | None,
        typer.Option("--precision", help="Number format. Default: that of the model folder or its engines."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--device", help="For onnxruntime: cuda (default) or cpu."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a Triton model repository with the models tile_encoder and histgen.

    Use it for your own tritonserver; histgen up exports by itself. The targets local and onnxruntime need the
    model folder's ONNX files (histgen model export), the others its engines (histgen compile).

    For example:

      histgen export runs/mine --target local --out model_repository

      histgen export runs/mine --target onnxruntime --precision float16 --out model_repository
    """
    from histgen_lib.export.hosting import Choices

    model = model_folder(folder)
    repository = export_to(target, model, out_dir, Choices(precision, device))
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    loss = _loss_command(model, precision)
    if as_json:
        emit_json({"repository": str(repository), "target": target, "models": models, "loss": loss})
        return
    out().print(f"{', '.join(models)} in {repository}", soft_wrap=True)
    if loss:
        out().print(f"What {precision} costs: {loss}", soft_wrap=True)


def _loss_command(model: Path, precision: Number | None) -> str:
    """Return the command that measures on an evaluation set what a precision costs; "" where it is known."""
    if precision not in ("float16", "bfloat16"):
        return ""
    return (
        f"histgen evaluate --model {model} --precision {precision} --device cuda "
        "--annotation annotation.json --bags bags"
    )

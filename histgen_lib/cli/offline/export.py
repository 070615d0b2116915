"""`histgen export`: writes a model folder as a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.options import model_folder, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.export.targets import export_to, target_summaries

_TARGETS = target_summaries()

if TYPE_CHECKING:
    Target = str
else:
    Target = Literal[tuple(_TARGETS)]


def export(
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
    as_json: JsonFlag = False,
) -> None:
    """Write a Triton model repository with the models tile_encoder and histgen.

    Use it for your own tritonserver; histgen up exports by itself. The model folder needs ONNX files
    (histgen model export).

    For example:

      histgen export runs/mine --target local --out model_repository
    """
    repository = export_to(target, model_folder(folder), out_dir)
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if as_json:
        emit_json({"repository": str(repository), "target": target, "models": models})
    else:
        out().print(f"{', '.join(models)} in {repository}", soft_wrap=True)

"""`histgen encode`: slides to bags of tile features, in bulk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.extras import need_train_extra
from histgen_lib.cli.options import Mpp, Out, Slides, model_folder
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, out, say_error, say_heading
from histgen_lib.cli.sources import expand

if TYPE_CHECKING:
    from histgen_lib.training.encode import EncodeResult

Encoder = Annotated[
    Path | None,
    typer.Option(
        "--encoder", metavar="DIR", help="Encoder or model folder. Default: the synthetic demo model."
    ),
]


def encode(
    slides: Slides,
    *,
    out_dir: Out,
    encoder: Encoder = None,
    mpp: Mpp = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: one a core.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Encode the tiles of many slides, for training. Needs the train extra.

    Writes DIR/<slide>.parquet. Bags that are there already are kept; a slide that fails does not stop the
    others.

    For example:

      histgen encode world/slides --out bags

      histgen encode scans/ --encoder runs/encoder --out bags --mpp 0.25
    """
    need_train_extra("histgen encode")
    from histgen_lib.training import EncodeSettings, encode_slides

    result = encode_slides(EncodeSettings(expand(slides), model_folder(encoder), out_dir, mpp, workers))
    if as_json:
        emit_json(_to_dict(result, out_dir))
    else:
        out().print(
            f"{result.written} bags written to {out_dir}, {result.kept} were there, "
            f"{len(result.failed)} slides failed.",
            soft_wrap=True,
        )
    for path, error in result.failed:
        say_heading(path)
        say_error(Failure.of(error))
    raise typer.Exit(1 if result.failed else 0)


def _to_dict(result: EncodeResult, out_dir: Path) -> dict[str, Any]:
    return {
        "out": str(out_dir),
        "written": result.written,
        "kept": result.kept,
        "errors": [{"path": str(path), **Failure.of(error).to_dict()} for path, error in result.failed],
    }

"""`histgen encode`: the features of many slides' tiles, by one or several encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import (
    ENCODER_META,
    InPrecision,
    Mpp,
    OnDevice,
    Out,
    Slides,
    encoder_choice,
    expand,
    need_train_extra,
)
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, number_of, out, say_error, say_heading

if TYPE_CHECKING:
    from histgen_lib.training.encoder.encode import Encoded, EncodeResult


def encode(
    slides: Slides,
    *,
    out_dir: Out,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            metavar=ENCODER_META,
            help="Published encoder with its weights file, timm:MODEL, onnx:FILE, MODULE:FUNCTION, or an "
            "encoder or model folder. Several encoders share the reading. Default: the synthetic demo model.",
        ),
    ] = None,
    mpp: Mpp = None,
    tile_px: Annotated[
        int | None, typer.Option("--tile-px", help="Side of a tile in pixels. Default: the encoder's.")
    ] = None,
    tile_mpp: Annotated[
        float | None, typer.Option("--tile-mpp", help="µm per pixel of a tile. Default: the encoder's.")
    ] = None,
    device: OnDevice = "cpu",
    precision: InPrecision = "float32",
    workers: Annotated[
        int,
        typer.Option("--workers", min=0, help="Processes (on a GPU: slides read at a time); 0: by cores."),
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Encode the tiles of many slides, for training. Needs the train extra.

    Writes DIR/<slide>.parquet; with several encoders DIR/<encoder>/<slide>.parquet. Existing bags are kept; a
    slide that fails does not stop the others. Nothing is downloaded: see docs/encoders.md for the names, and
    where their weights are published.

    For example:

      histgen encode world/slides --out bags

      histgen encode scans/ --encoder uni=uni/pytorch_model.bin --device cuda --out bags

      histgen encode scans/ --encoder runs/encoder --encoder timm:resnet50=resnet50.safetensors --out bags
    """
    need_train_extra("histgen encode")
    from histgen_lib.models.serving import Compute
    from histgen_lib.training import EncodeSettings, encode_slides

    paths = expand(slides)
    names: list[str | None] = list(encoder) if encoder else [None]
    chosen = [encoder_choice(name, tile_px=tile_px, tile_mpp=tile_mpp) for name in names]
    compute = Compute(device=device, precision=precision)
    result = encode_slides(EncodeSettings(paths, chosen, out_dir, mpp, workers, compute))
    if as_json:
        emit_json(_to_dict(result, out_dir))
    else:
        _say(result)
    for path, error in result.failed:
        say_heading(path)
        say_error(Failure.of(error))
    raise typer.Exit(1 if result.failed else 0)


def _say(result: EncodeResult) -> None:
    for one in result.encoders:
        name = f"{one.place.maker.name}: " if len(result.encoders) > 1 else ""
        out().print(
            f"{name}{number_of(one.written, 'bag')} written to {one.place.folder}, {one.kept} already there.",
            soft_wrap=True,
            markup=False,
        )
    if result.failed:
        out().print(f"{number_of(len(result.failed), 'slide')} failed.")


def _to_dict(result: EncodeResult, out_dir: Path) -> dict[str, Any]:
    return {
        "out": str(out_dir),
        "written": result.written,
        "kept": result.kept,
        "encoders": [_encoder_dict(one) for one in result.encoders],
        "errors": [{"path": str(path), **Failure.of(error).to_dict()} for path, error in result.failed],
    }


def _encoder_dict(one: Encoded) -> dict[str, Any]:
    maker, tiling = one.place.maker, one.place.tiling
    return {
        "name": maker.name,
        "sha256": maker.sha256,
        "settings_sha256": maker.settings,
        "dim": maker.width,
        "tile_px": tiling.tile_px,
        "mpp": tiling.mpp,
        "folder": str(one.place.folder),
        "written": one.written,
        "kept": one.kept,
    }

"""`histgen compile`: a model's networks as engines of TensorRT or TensorRT-RTX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.options import need_train_extra, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, err, out

if TYPE_CHECKING:
    from histgen_lib.models.bag_tensors import Features
    from histgen_lib.models.engines.record import EngineRecord


def compile_engines(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder with its weights.")],
    *,
    target: Annotated[
        Literal["tensorrt", "tensorrt-rtx"],
        typer.Option(
            "--target",
            help="tensorrt: for the GPU of this machine. tensorrt-rtx: for GPUs of compute capability 8.0, "
            "8.6, 8.9, 12.0 and 12.1, on any machine.",
        ),
    ],
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--precision", help="Number format in which the networks compute."),
    ] = "float16",
    capabilities: Annotated[
        list[str] | None,
        typer.Option(
            "--compute-capability", metavar="X.Y", help="Compile for these GPUs only; may be repeated."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the engines. Default: engines/<target> in the model folder.",
            callback=writable_folder,
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option("--beams", min=1, max=32, help="Most beams of a search. Default: the model's."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest report in words. Default: the model's.")
    ] = None,
    tiles: Annotated[
        int, typer.Option("--tiles", min=1, max=1_000_000, help="Tiles of the largest slide.")
    ] = 100_000,
    bag: Annotated[
        Path | None,
        typer.Option("--bag", metavar="FILE", help="Bag whose features also have to come out right."),
    ] = None,
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slide", metavar="FILE", help="Slide whose tiles also have to come out right."),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache",
            metavar="FILE",
            help="Where TensorRT keeps how quick its kernels were. Default: in the user's cache folder.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a model's networks to engines for NVIDIA's GPUs.

    An engine is kept only if its outputs agree with ONNX Runtime's; on a machine without a GPU that is
    checked when it is first loaded. Needs the train extra, and the TensorRT of the target.

    For example:

      histgen compile runs/mine --target tensorrt --precision bfloat16

      histgen compile runs/mine --target tensorrt-rtx --compute-capability 8.9 --out engines
    """
    need_train_extra("histgen compile")
    from histgen_lib.export.engines.compile import CompileSettings, compile_model

    settings = CompileSettings(
        flavour=target,
        precision=precision,
        capabilities=tuple(capabilities or ()),
        beams=beams,
        max_tokens=max_tokens,
        most_tiles=tiles,
        out=out_dir,
        timing_cache=timing_cache or _cache_folder() / f"{target}.timing",
        features=_features(bag),
        slides=tuple(slides or ()),
    )
    records = compile_model(folder, settings, _say)
    if as_json:
        emit_json({"engines": [record.model_dump(mode="json") for record in records]})
    else:
        _print(records)


def _cache_folder() -> Path:
    """Return where files go that can be made again (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "histgen"


def _features(bag: Path | None) -> Features | None:
    if bag is None:
        return None
    from histgen_lib.bags import read_bag

    return read_bag(bag).features


def _say(line: str) -> None:
    err().print(line, style="dim", soft_wrap=True)


def _print(records: Sequence[EngineRecord]) -> None:
    for record in records:
        checked = (
            f"agrees with ONNX Runtime on {record.checked.device}" if record.checked else "not yet checked"
        )
        line = f"{record.name}: {record.precision}, {record.layers.count} layers, {checked}"
        out().print(f"{line}; for {', '.join(record.capabilities)}", soft_wrap=True)

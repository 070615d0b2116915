"""`histgen train-encoder`: the small tile encoder, trained on synthetic slides whose every cell is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from histgen_lib.cli.extras import need_train_extra
from histgen_lib.cli.options import Out
from histgen_lib.cli.output import JsonFlag, emit_json, out


def train_encoder(
    *,
    world: Annotated[Path, typer.Option("--world", metavar="DIR", help="Folder that histgen synth wrote.")],
    out_dir: Out,
    name: Annotated[
        str, typer.Option("--name", help="What the encoder is called in provenance.")
    ] = "synthetic-small",
    dim: Annotated[int | None, typer.Option("--dim", help="Length of a feature.")] = None,
    max_slides: Annotated[int | None, typer.Option("--max-slides", help="Slides to take tiles from.")] = None,
    tile_passes: Annotated[int | None, typer.Option("--tile-passes", help="Tiles shown in all.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Tiles a step.")] = None,
    precision: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option("--precision", help="Arithmetic of convolutions.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of weights, order and augmentation.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores; 0: all.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Train a small tile encoder on synthetic slides. Needs the train extra; a run that was stopped goes on.

    For example:

      histgen train-encoder --world world --out runs/encoder
    """
    need_train_extra("histgen train-encoder")
    from histgen_lib.training import TileTrainSettings, train_tile_encoder

    chosen: dict[str, Any] = {
        "dim": dim,
        "max_slides": max_slides,
        "tile_passes": tile_passes,
        "batch_size": batch_size,
        "precision": precision,
        "seed": seed,
    }
    stated = {key: value for key, value in chosen.items() if value is not None}
    settings = TileTrainSettings(world=world, out=out_dir, name=name, threads=threads, **stated)
    scores = train_tile_encoder(settings)
    if as_json:
        emit_json({"encoder": str(out_dir), "scores": scores})
    else:
        out().print(f"Encoder in {out_dir}", soft_wrap=True)
        for metric, value in scores.items():
            out().print(f"  {metric} {value:.4g}")

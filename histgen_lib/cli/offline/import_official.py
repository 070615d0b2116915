"""`histgen model import-official`: a model folder from weights trained with the authors' HistGen code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import ENCODER_META, encoder_choice, need_train_extra, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.cli.offline.importing import Imported


def import_official(
    checkpoint: Annotated[
        Path, typer.Argument(help="Weights trained with the authors' HistGen code (.pth).")
    ],
    *,
    annotation: Annotated[
        Path, typer.Option("--annotation", help="annotation.json of its training; gives the vocabulary.")
    ],
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="New model folder.", callback=writable_folder),
    ],
    tile_encoder: Annotated[
        str | None,
        typer.Option(
            "--tile-encoder",
            metavar=ENCODER_META,
            help="Tile encoder of the training, copied into the model: then it drafts from slides.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the model in provenance.")
    ] = "histgen-official",
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, help="Minimum count of a word, as in training.")
    ] = 10,
    num_heads: Annotated[
        int | None, typer.Option("--num-heads", min=1, help="Attention heads, as in training. Default: 8.")
    ] = None,
    region_size: Annotated[
        int | None,
        typer.Option(
            "--region-size", min=2, help="Tiles per region, as in training. Default: the weights', or 96."
        ),
    ] = None,
    topk: Annotated[
        int | None, typer.Option("--topk", min=1, help="Memory rows retrieved, as in training. Default: 512.")
    ] = None,
    prototype_num: Annotated[
        int | None,
        typer.Option("--prototype-num", min=1, help="Number of prototypes, as in training. Default: 512."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest report in words. Default: 100.")
    ] = None,
    tile_px: Annotated[
        int | None,
        typer.Option(
            "--tile-px", min=1, help="Side of the training's tiles in pixels. Default: the encoder's, or 256."
        ),
    ] = None,
    tile_mpp: Annotated[
        float | None,
        typer.Option("--tile-mpp", help="µm per pixel of those tiles. Default: the encoder's, or 0.5."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Without --tile-encoder: name of the encoder that made the features."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a model folder from weights trained with the published HistGen code. Needs the train extra.

    With --tile-encoder the model drafts from slides, else from bags (.h5, .pt, .parquet) of its encoder. It
    has no statistics of its training domain, and every draft says that it was not checked against them. Sizes
    that the weights do not reveal are those of the published training if the others are, and are listed: with
    a wrong size the model loads but writes wrong reports. See docs/models/histgen-published.md.

    For example:

      histgen model import-official model_best.pth --annotation annotation.json
      --tile-encoder histgen-dinov2-vitl14=dinov2_cpath_v1.pth --out models/histgen
    """
    need_train_extra("histgen model import-official")
    from histgen_lib.cli.offline.importing import OfficialSource, import_weights

    if tile_encoder is not None and encoder is not None:
        raise InvalidInputError(
            "import-encoder-twice",
            "--encoder names an encoder that is not here, --tile-encoder one that is.",
            hint="Use one of them.",
        )
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
        tile_encoder=encoder_choice(tile_encoder, tile_px=tile_px, tile_mpp=tile_mpp)
        if tile_encoder
        else None,
        tile_px=tile_px,
        tile_mpp=tile_mpp,
        encoder=encoder or "",
    )
    _show(import_weights(source, out_dir, name), as_json)


def _show(imported: Imported, as_json: bool) -> None:
    from histgen_lib.cli.offline.model import facts_of, print_facts

    facts: dict[str, Any] = facts_of(imported.folder) | {"assumed": imported.assumed}
    if as_json:
        emit_json(facts)
        return
    print_facts(facts)
    if imported.assumed:
        sizes = ", ".join(f"{name} {value}" for name, value in imported.assumed.items())
        out().print(
            f"Not in the weights, taken from the published training: {sizes}. If the training had others, "
            "state them: the model would load, but write wrong reports.",
            style="yellow",
            soft_wrap=True,
        )

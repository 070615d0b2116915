"""`histgen train-encoder` and `train`: from slides and their reports to a model folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.offline.cases import AllowMissing, MatchedCases
from histgen_lib.cli.options import ENCODER_META, Out, encoder_choice, need_train_extra
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, out, say_error, say_heading
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.training import TrainResult
    from histgen_lib.training.encoder.source import EncoderChoice


def train_encoder(
    *,
    world: Annotated[Path, typer.Option("--world", metavar="DIR", help="Folder that histgen synth wrote.")],
    out_dir: Out,
    name: Annotated[
        str, typer.Option("--name", help="Name of the encoder in provenance.")
    ] = "synthetic-small",
    dim: Annotated[int | None, typer.Option("--dim", help="Length of a feature.")] = None,
    max_slides: Annotated[int | None, typer.Option("--max-slides", help="Slides to take tiles from.")] = None,
    tile_passes: Annotated[int | None, typer.Option("--tile-passes", help="Tiles shown in total.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Tiles per step.")] = None,
    precision: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option("--precision", help="Number format of convolutions."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of weights, order and augmentation.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Train a small tile encoder on synthetic slides. Needs the train extra; an interrupted run resumes.

    For example:

      histgen train-encoder --world world --out runs/encoder
    """
    need_train_extra("histgen train-encoder")
    from histgen_lib.training import TileTrainOverrides, TileTrainSettings, train_tile_encoder

    overrides = TileTrainOverrides(
        dim=dim,
        max_slides=max_slides,
        tile_passes=tile_passes,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
    )
    settings = TileTrainSettings(world=world, out=out_dir, name=name, threads=threads)
    scores = train_tile_encoder(overrides.apply(settings))
    if as_json:
        emit_json({"encoder": str(out_dir), "scores": scores})
    else:
        out().print(f"Encoder in {out_dir}", soft_wrap=True)
        for metric, value in scores.items():
            out().print(f"  {metric} {value:.4g}")


def train(
    *,
    annotation: Annotated[
        Path,
        typer.Option("--annotation", metavar="FILE", help="annotation.json in HistGen's published layout."),
    ],
    out_dir: Out,
    bags: Annotated[
        Path | None, typer.Option("--bags", metavar="DIR", help="Bags: .parquet, .h5 (CLAM, TRIDENT) or .pt.")
    ] = None,
    slides: Annotated[
        Path | None,
        typer.Option(
            "--slides", metavar="DIR", help="Slides instead of bags; they are first encoded to OUT/bags."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar=ENCODER_META,
            help="Tile encoder of the bags, or its folder; copied into the model.",
        ),
    ] = None,
    preset: Annotated[
        Literal["published", "small"],
        typer.Option("--preset", help="published: HistGen's settings. small: short reports, on a CPU."),
    ] = "published",
    variant: Annotated[
        Literal["published", "corrected", "mean-pooled"] | None,
        typer.Option(
            "--variant",
            help="The authors' network, the corrected one, or a baseline on the mean of all tiles. "
            "Default: the preset's (small: corrected).",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the model in provenance.")] = "histgen",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="The slides are synthetic; every draft will say so.")
    ] = False,
    tokenizer: Annotated[
        Literal["word", "bpe"] | None, typer.Option("--tokenizer", help="Words or byte pairs.")
    ] = None,
    min_count: Annotated[
        int | None, typer.Option("--min-count", min=1, help="Words that occur less often become unknown.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Maximum number of epochs.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Slides per step and process.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Peak learning rate.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--precision", help="Number format; mixed precision except float32."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of all random numbers.")] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Epochs without a better validation score before training stops."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Train HistGen on slides or bags and their reports. Needs the train extra.

    OUT becomes a model folder with ONNX files; metrics and TensorBoard files go to OUT/training. An
    interrupted run resumes. The test split is not used. For several processes: torchrun --nproc-per-node N
    -m histgen_lib.cli train ...

    For example:

      histgen train --bags bags --annotation annotation.json --out model

      histgen train --slides scans/ --encoder uni=pytorch_model.bin --annotation annotation.json --out model

      histgen train --slides world/slides --annotation world/annotation.json --preset small --synthetic
      --out model
    """
    need_train_extra("histgen train")
    from histgen_lib.training import TrainOverrides
    from histgen_lib.training import preset as make_settings
    from histgen_lib.training import train as run

    bags, used = _bags(bags, slides, encoder, out_dir, "cuda" if device == "cuda" else "cpu")
    overrides = TrainOverrides(
        variant=variant,
        tokenizer=tokenizer,
        word_threshold=min_count,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        device=device,
        seed=seed,
        patience_epochs=patience,
    )
    settings = dataclasses.replace(
        make_settings(preset, annotation=annotation, bags=bags, out=out_dir),
        name=name,
        encoder=used,
        synthetic=synthetic,
        threads=threads,
        allow_missing=allow_missing,
    )
    cases = MatchedCases()
    result = run(overrides.apply(settings), on_matched=cases)
    if os.environ.get("RANK", "0") == "0":
        _finish(result, cases, as_json)


def _bags(
    bags: Path | None, slides: Path | None, encoder: str | None, out_dir: Path, device: Literal["cpu", "cuda"]
) -> tuple[Path, EncoderChoice | None]:
    """Return the folder of bags and their encoder, encoding --slides first."""
    if (bags is None) == (slides is None):
        raise InvalidInputError(
            "train-bags-or-slides",
            "Training needs either --bags or --slides.",
            hint="Use exactly one of them.",
        )
    if bags is not None:
        return bags, encoder_choice(encoder) if encoder else None
    from histgen_lib.models.serving import Compute
    from histgen_lib.training import EncodeSettings, encode_slides

    assert slides is not None
    used = encoder_choice(encoder)
    compute = Compute(device=device)
    result = encode_slides(EncodeSettings([slides], [used], out_dir / "bags", compute=compute))
    for path, error in result.failed:
        say_heading(path)
        say_error(Failure.of(error))
    if result.failed and not result.written + result.kept:
        raise result.failed[0][1]
    return out_dir / "bags", used


def _finish(result: TrainResult, cases: MatchedCases, as_json: bool) -> None:
    from histgen_lib.export import to_onnx

    to_onnx(result.folder)
    if as_json:
        content = {
            "model": str(result.folder),
            "validation": result.best,
            "seconds": round(result.seconds, 1),
        }
        emit_json(content | {"cases": cases.to_dict()})
        return
    out().print(f"Model in {result.folder} after {result.seconds / 60:.1f} minutes", soft_wrap=True)
    for metric, value in result.best.items():
        out().print(f"  {metric} {value:.4f}")

"""Model folders from weights trained with the authors' HistGen code. Needs torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from histgen_lib.errors import InvalidInputError
from histgen_lib.export import to_onnx
from histgen_lib.files import whole_folder
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import HistGen, load_official
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.models.histgen.official import published_sizes, read_checkpoint
from histgen_lib.models.tile_encoder.registry import TileNetwork
from histgen_lib.slides import TilingSettings
from histgen_lib.text.tokenizers import WordTokenizer
from histgen_lib.training import read_annotation
from histgen_lib.training.encoder.source import EncoderChoice


@dataclass(frozen=True)
class OfficialSource:
    """Weights in the published format, and the facts that they do not contain.

    `sizes` are those of `load_official`; one that is None is taken from the weights or, if they do not reveal
    it, from the published training. `tile_encoder` made the features; without one, `encoder` is its name.
    `tile_px`, `tile_mpp`: its tiles, by default the encoder's own.
    """

    checkpoint: Path
    annotation: Path
    threshold: int
    sizes: Mapping[str, int | None]
    tile_encoder: EncoderChoice | None = None
    tile_px: int | None = None
    tile_mpp: float | None = None
    encoder: str = ""


@dataclass(frozen=True)
class Imported:
    """A model folder, and the sizes that neither the weights nor the caller stated."""

    folder: ModelFolder
    assumed: Mapping[str, int]


def import_weights(source: OfficialSource, folder: Path, name: str) -> Imported:
    """Write a complete model folder, or nothing.

    Raises InvalidInputError: "import-output-exists", "import-vocabulary-mismatch", "model-other-encoder" for
    a tile encoder of another width, those of `load_official`; and what opening the encoder raises.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidInputError(
            "import-output-exists",
            f"{folder} is not empty.",
            hint="Choose a new folder for the imported model.",
        )
    # The authors count the words of the training split only (modules/tokenizers.py).
    reports = [case.report for case in read_annotation(source.annotation).train]
    tokenizer = WordTokenizer.train(reports, threshold=source.threshold)
    model, assumed = load_weights(source)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InvalidInputError(
            "import-vocabulary-mismatch",
            f"The weights have {model.config.vocab_size} words, the annotation {tokenizer.vocab_size}.",
            hint="Use the annotation file and --threshold of the training; "
            "the words of its train split are counted.",
        )
    with whole_folder(folder) as target:
        new_model_folder(
            target,
            name=name,
            synthetic=False,
            config=model.config,
            tokenizer=tokenizer,
            **_encoder_parts(source, model.config.input_dim),
        )
        save_model(target, model)
        to_onnx(target)
    return Imported(open_model_folder(folder), assumed)


class _EncoderParts(TypedDict):
    """What `new_model_folder` is told about the tile encoder."""

    tile_encoder: TileNetwork | None
    tiling: Mapping[str, Any]
    encoder: Mapping[str, Any]


def _encoder_parts(source: OfficialSource, width: int) -> _EncoderParts:
    """Open the tile encoder, if there is one. Raises InvalidInputError("model-other-encoder")."""
    if source.tile_encoder is None:
        own = TilingSettings()
        tiling = replace(
            own,
            tile_px=own.tile_px if source.tile_px is None else source.tile_px,
            mpp=own.mpp if source.tile_mpp is None else source.tile_mpp,
        )
        named = {"name": source.encoder, "sha256": "", "dim": width}
        return {"tile_encoder": None, "tiling": asdict(tiling), "encoder": named}
    encoder = source.tile_encoder.open()
    if encoder.maker.width != width:
        raise InvalidInputError(
            "model-other-encoder",
            f"The weights read features of length {width}, and {encoder.maker.name} makes "
            f"them of length {encoder.maker.width}.",
            hint="Name the tile encoder that the weights were trained with.",
        )
    return {
        "tile_encoder": encoder.load(),
        "tiling": asdict(encoder.tiling),
        "encoder": encoder.section,
    }


def load_weights(source: OfficialSource) -> tuple[HistGen, dict[str, int]]:
    """Load the report network; also return the sizes that were taken from the published training.

    Raises as `load_official`; a region size that contradicts the weights is "checkpoint-size-mismatch".
    """
    state = read_checkpoint(source.checkpoint)
    assumed = published_sizes(state, source.sizes)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="These weights look trained with", category=UserWarning)
        try:
            return load_official(state, _stated(source.sizes) | assumed), assumed
        except UserWarning as contradiction:
            raise InvalidInputError(
                "checkpoint-size-mismatch",
                str(contradiction),
                hint="Leave out --region-size: the weights tell it.",
            ) from contradiction


def _stated(sizes: Mapping[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in sizes.items() if value is not None}

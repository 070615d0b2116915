"""A model folder whose tile encoder is in int8: a model of its own, since its features are others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from histgen_lib.errors import InvalidInputError
from histgen_lib.export.external_data import data_path
from histgen_lib.export.quantisation import Pixels, Quantised, quantise
from histgen_lib.files import canonical_json, json_digest, sha256_file, whole_folder, write_atomic
from histgen_lib.models.folder import CONFIG, ModelFolder, open_model_folder
from histgen_lib.models.graph_record import record_graphs
from histgen_lib.models.tile_encoder.serving import QUANTISATION, TILE_ENCODER_ONNX
from histgen_lib.slides import Slide, TileGrid, TilingSettings, open_slide, plan_grid

TILES = 256
"""Tiles of tissue that are taken from all slides together."""
_SEED = 0


def int8_folder(model: Path, out: Path, slides: Sequence[Path], tiles: int = TILES) -> Quantised:
    """Write a copy of a model folder with its encoder in int8, all or nothing; return what that costs.

    `slides` are like those that the encoder will see; of their tissue, `tiles` are taken. The new config.json
    states the figures, and has a settings digest of its own: bags say which of the two encoders made them.

    Raises as `open_model_folder`, `open_slide` and `quantise`; FatalError("model-incomplete") without ONNX
    files; InvalidInputError("export-output") if `out` is not empty, "export-int8" if it is in int8 already.
    """
    folder = open_model_folder(model)
    source = folder.file(TILE_ENCODER_ONNX)
    if folder.encoder.get(QUANTISATION):
        raise InvalidInputError(
            "export-int8",
            f"The tile encoder of {folder.name} is in int8 already.",
            hint="Calibrate the model folder in float32 that it was made from.",
        )
    if out.is_dir() and any(out.iterdir()):
        raise InvalidInputError("export-output", f"{out} is not empty.", hint="Give --out another folder.")
    pixels = calibration_tiles(slides, TilingSettings(**folder.tiling), tiles)
    with whole_folder(out) as place:
        for file in folder.files():
            if file not in (source, data_path(source)):
                shutil.copyfile(file, place / file.name)
        quantised = quantise(source, place / TILE_ENCODER_ONNX, pixels)
        _describe(folder, place, quantised)
        record_graphs(open_model_folder(place))
    return quantised


def calibration_tiles(slides: Sequence[Path], tiling: TilingSettings, count: int) -> Pixels:
    """Read tiles of tissue from slides, about as many from each: uint8[N, S, S, 3], shuffled, N ≤ `count`."""
    rng = np.random.default_rng(_SEED)
    share = -(-count // len(slides))
    found = np.concatenate([part for path in slides for part in _tiles(path, tiling, share, rng)])
    return found[rng.permutation(len(found))[:count]]


def _tiles(path: Path, tiling: TilingSettings, count: int, rng: np.random.Generator) -> Iterator[Pixels]:
    with open_slide(path) as slide:
        grid = plan_grid(slide, tiling)
        chosen = grid.only(np.sort(rng.permutation(len(grid))[:count]))
        yield from _read(slide, chosen)


def _read(slide: Slide, grid: TileGrid) -> Iterator[Pixels]:
    with closing(slide.read_tiles(grid, refuse=False)) as batches:
        for batch in batches:
            yield batch.pixels


def _describe(folder: ModelFolder, place: Path, quantised: Quantised) -> None:
    graph = sha256_file(place / TILE_ENCODER_ONNX)
    encoder = dict(folder.encoder) | {
        QUANTISATION: quantised.to_config(),
        "settings_sha256": json_digest({"encoder": dict(folder.encoder), "graph": graph}),
    }
    content = dict(folder.config) | {"name": f"{folder.name}-int8", "encoder": encoder}
    write_atomic(place / CONFIG, canonical_json(content))

"""Writing and reading a model folder's weights (safetensors) with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from histgen_lib.errors import FatalError
from histgen_lib.files import atomic_path, canonical_json, sha256_file, write_atomic
from histgen_lib.models.folder import (
    CONFIG,
    SCHEMA,
    TILE_ENCODER_WEIGHTS,
    TOKENIZER,
    WEIGHTS,
    ModelFolder,
    open_model_folder,
)
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.tile_encoder.registry import TileNetwork, new_network
from histgen_lib.text.tokenizers import Tokenizer

Network = TypeVar("Network", bound=nn.Module)


def new_model_folder(
    folder: Path,
    *,
    name: str,
    synthetic: bool,
    config: HistGenConfig,
    tokenizer: Tokenizer,
    tiling: Mapping[str, Any],
    tile_encoder: TileNetwork | None = None,
    encoder: Mapping[str, Any] | None = None,
    decoding: DecodingSettings | None = None,
) -> ModelFolder:
    """Create a model folder: config.json, tokenizer.json and, if it is given, the tile encoder's weights.

    `tiling`: tile_px, mpp, overlap_px, min_tissue. `encoder`: further facts about the tile encoder, which
    take precedence (its name, the SHA-256 of its weights as published), or the description of a foreign one
    ({"name", "sha256", "dim"}) if `tile_encoder` is None. `save_model` adds the weights, `update_config`
    other sections of config.json ("domain", "abstention", "calibration").
    """
    described = dict(encoder or {})
    if tile_encoder is not None:
        save_weights(folder / TILE_ENCODER_WEIGHTS, tile_encoder)
        digest = sha256_file(folder / TILE_ENCODER_WEIGHTS)
        described = {"sha256": digest} | tile_encoder.describe() | described
        if described["sha256"] != digest:
            described["file_sha256"] = digest
    tokenizer.save(folder / TOKENIZER)
    content = {
        "schema": SCHEMA,
        "name": name,
        "synthetic": synthetic,
        "histgen": config.to_json(),
        "tiling": dict(tiling),
        "encoder": described,
        "decoding": asdict(decoding or DecodingSettings(max_tokens=config.max_tokens)),
        "domain": {},
        "abstention": {},
        "calibration": {},
    }
    write_atomic(folder / CONFIG, canonical_json(content))
    return open_model_folder(folder)


def update_config(folder: Path, **sections: Mapping[str, Any]) -> ModelFolder:
    """Replace whole sections of a model folder's config.json; return the folder, opened again."""
    content = dict(open_model_folder(folder).config) | sections
    write_atomic(folder / CONFIG, canonical_json(content))
    return open_model_folder(folder)


def save_model(folder: Path, model: HistGen, *, half: bool = False) -> Path:
    """Write the report network's weights into a model folder, all or nothing; return the file.

    `half` stores float16, half the size; once loaded, the network still computes in float32.
    """
    return save_weights(folder / WEIGHTS, model, half=half)


def load_model(folder: Path) -> HistGen:
    """Load the report network of a model folder, in evaluation mode on the CPU.

    Raises FatalError: "model-missing", "model-config", "model-incomplete", "model-weights".
    """
    opened = open_model_folder(folder)
    return load_network(lambda: HistGen(opened.histgen), opened.file(WEIGHTS))


def load_tile_encoder(folder: Path) -> TileNetwork:
    """Load the tile encoder of a model folder, in evaluation mode on the CPU.

    Raises as `load_model`; weights that are not those that config.json states are "model-weights" too.
    """
    opened = open_model_folder(folder)
    weights = opened.file(TILE_ENCODER_WEIGHTS)
    stated = opened.encoder.get("file_sha256") or opened.encoder.get("sha256")
    if stated and stated != sha256_file(weights):
        raise FatalError(
            "model-weights",
            f"{weights.name} is damaged, or of another model: its SHA-256 is not what {CONFIG} states.",
            hint="Fetch or train the model again: its files belong to different models.",
        )
    return load_network(lambda: new_network(opened.encoder), weights)


def load_network(build: Callable[[], Network], path: Path) -> Network:
    """Load a model folder's file into the network that `build` makes, for evaluation.

    No fresh weights are drawn where the file holds everything: of a large encoder they would take seconds.
    Raises FatalError("model-weights").
    """
    try:
        stored = load_file(path)
        with torch.device("meta"):
            network = build()
        network.load_state_dict(_laid_out(stored, network), assign=True)
        if any(value.is_meta for value in (*network.parameters(), *network.buffers())):
            network = build()  # it computes what no file holds
            network.load_state_dict(stored)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise FatalError(
            "model-weights",
            f"The weights in {path.name} do not fit this model ({str(error).splitlines()[0]}).",
            hint="Fetch or train the model again: its files belong to different models.",
        ) from error
    return network.eval()


def _laid_out(stored: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Copy weights to memory of a network's own: of its types, order and alignment, on which bits depend."""
    expected, found = network.state_dict(), dict(stored)
    for name, value in stored.items():
        like = expected.get(name, value)
        if like.shape == value.shape:
            found[name] = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(value)
    return found


def save_weights(path: Path, network: nn.Module, *, half: bool = False) -> Path:
    """Write a network's weights, all or nothing; `half` as float16. Returns the file."""
    # Contiguous copies: safetensors refuses channels-last views.
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if half:
        tensors = {name: value.half() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return path

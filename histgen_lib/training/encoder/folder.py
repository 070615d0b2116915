"""The folder of a tile encoder: its weights, its heads, and the tiling it expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.files import atomic_path, canonical_json, sha256_file, write_atomic
from histgen_lib.models.folder import settings_digest
from histgen_lib.models.histgen.checkpoint import load_network
from histgen_lib.models.tile_encoder.registry import TileNetwork, new_network
from histgen_lib.slides import TilingSettings
from histgen_lib.training.encoder.heads import TileTeacher
from histgen_lib.training.encoder.settings import TileTrainSettings

CONFIG, WEIGHTS, HEADS = "config.json", "tile_encoder.safetensors", "tile_heads.safetensors"


@dataclass(frozen=True)
class EncoderFolder:
    """An encoder's folder, read. `description` rebuilds the network.

    `sha256` is that of its weights as they were published, `settings` that of what else decides a feature.
    """

    path: Path
    name: str
    sha256: str
    settings: str
    description: Mapping[str, Any]
    tiling: TilingSettings

    def load(self) -> TileNetwork:
        """Load the network in evaluation mode. FatalError("training-encoder-unreadable") if it is damaged."""
        try:
            return load_network(lambda: new_network(self.description), self.path / WEIGHTS)
        except HistgenError as error:
            raise _unreadable(self.path) from error


def save_encoder(teacher: TileTeacher, settings: TileTrainSettings) -> EncoderFolder:
    """Write encoder, heads and, last, config.json: where it exists, the folder is complete."""
    folder = settings.out
    tensors = {name: value.detach().contiguous() for name, value in teacher.encoder.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    save_heads(teacher, folder)
    content = {
        "schema": 1,
        "kind": "tile-encoder",
        "encoder": teacher.encoder.describe() | {"name": settings.name},
        "tiling": {
            "tile_px": settings.tile_px,
            "mpp": settings.mpp,
            "overlap_px": 0,
            "min_tissue": settings.min_tissue,
        },
    }
    write_atomic(folder / CONFIG, canonical_json(content))
    return open_encoder(folder)


def open_encoder(folder: Path) -> EncoderFolder:
    """Read an encoder's folder, or the encoder of a model folder.

    FatalError("training-encoder-unreadable") if it is neither.
    """
    try:
        content = json.loads((folder / CONFIG).read_bytes())
        described, tiling = dict(content["encoder"]), TilingSettings(**content["tiling"])
        settings = described.get("settings_sha256") or settings_digest(described, content["tiling"])
        digest = _published(described, sha256_file(folder / WEIGHTS))
        return EncoderFolder(folder, str(described["name"]), digest, str(settings), described, tiling)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder) from error


def _published(described: Mapping[str, Any], digest: str) -> str:
    """Return the digest of the weights as published, if the folder's file is what was made of them."""
    return str(described["sha256"]) if described.get("file_sha256") == digest else digest


def _unreadable(folder: Path) -> FatalError:
    return FatalError(
        "training-encoder-unreadable",
        f"{folder} is not the folder of a tile encoder.",
        hint="With --encoder, name a folder that `histgen train-encoder` or `histgen train` wrote, "
        "or an encoder of docs/encoders.md.",
    )


def save_heads(teacher: TileTeacher, folder: Path) -> None:
    """Write the tile-level heads: weight float32[H, D], bias float32[H], and their names as metadata."""
    tensors = {"weight": teacher.heads.weight.detach().clone(), "bias": teacher.heads.bias.detach().clone()}
    with atomic_path(folder / HEADS) as temporary:
        save_file(tensors, temporary, metadata={"names": "\n".join(teacher.names())})


def load_heads(folder: Path) -> tuple[Tensor, Tensor, list[str]] | None:
    """Return (weight [H, D], bias [H], names), or None if an encoder has no heads.

    FatalError("training-heads-unreadable") if the file is damaged.
    """
    path = folder / HEADS
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            names = (stored.metadata() or {}).get("names", "").split("\n")
            return stored.get_tensor("weight"), stored.get_tensor("bias"), names
    except (SafetensorError, OSError) as error:
        raise FatalError(
            "training-heads-unreadable",
            f"{path} is damaged.",
            hint="Delete it, or train the tile encoder again.",
        ) from error

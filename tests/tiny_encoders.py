"""Small tile encoders: folders of our own, and weights of a published architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from histgen_lib.models.serving import Compute
from histgen_lib.models.tile_encoder.registry import new_network
from histgen_lib.models.tile_encoder.small import TileEncoder
from histgen_lib.training.encoder import encode
from histgen_lib.training.encoder.folder import save_encoder
from histgen_lib.training.encoder.heads import TileTeacher
from histgen_lib.training.encoder.settings import TileTrainSettings
from histgen_lib.training.encoder.slide_bags import Work
from histgen_lib.training.encoder.source import EncoderChoice

VIT = "timm:test_vit"
"""The smallest vision transformer of timm: 64 features."""


def write_encoder(folder: Path, name: str, *, dim: int = 8, tile_px: int = 64, mpp: float = 2.0) -> Path:
    """Write the folder of an encoder as `histgen train-encoder` does, with random weights."""
    torch.manual_seed(dim)
    settings = TileTrainSettings(world=folder, out=folder, name=name, tile_px=tile_px, mpp=mpp)
    return save_encoder(TileTeacher(TileEncoder(dim, widths=(8, 8, 8)), ("a",)), settings).path


def write_vit(path: Path, seed: int = 0) -> Path:
    """Write a weights file of `VIT` as a publisher would: the backbone alone."""
    torch.manual_seed(seed)
    network = new_network({"architecture": VIT})
    save_file(
        {name: value.contiguous() for name, value in network.state_to_load().state_dict().items()}, path
    )
    return path


def loaded(choices: Sequence[EncoderChoice], out: Path) -> list[Work]:
    """Load encoders as a process does that encodes slides into `out`."""
    opened = [choice.open() for choice in choices]
    plan = encode._Plan(tuple(choices), encode._places(opened, out), None, Compute())
    return encode._works(plan, opened)

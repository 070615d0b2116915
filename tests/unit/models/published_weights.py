"""Files in the formats in which HistGen's authors publish weights, at full size, with random numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from naive_histgen import random_state_dict

SIZES = {"d_model": 512, "d_ff": 512, "d_vf": 2048, "cmm_size": 2048, "input_dim": 1024}
TABLE = "encoder_decoder.model.encoder.layer.0.position_embeddings.weight"
REGION_SIZE = 96
_WIDTH, _HIDDEN, _BLOCKS, _CHUNK = 1024, 2736, 24, 6


def write_annotation(path: Path, words: int) -> Path:
    """Write an annotation file whose training reports have `words` different words often enough."""
    vocabulary = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(words)]
    case = {"id": "a", "report": " ".join(vocabulary * 10), "image_path": ["a.svs"]}
    path.write_text(json.dumps({"train": [case], "val": [], "test": []}))
    return path


def write_checkpoint(path: Path, vocab_words: int) -> Path:
    """Write what the authors' training saves: weights under all their names, and the optimiser's state."""
    weights = random_state_dict(0, vocab_words=vocab_words, **SIZES)
    state = {name: torch.from_numpy(value).float() for name, value in weights.items()}
    state[TABLE] = torch.zeros(-(-100_000 // REGION_SIZE) + 1, SIZES["d_model"])
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def write_tile_encoder(path: Path) -> Path:
    """Write a DINOv2 ViT-L/14 with SwiGLU as Meta's training saves it: a teacher of chunks, and its heads."""
    numbers = torch.randn(7_000_000, generator=torch.Generator().manual_seed(0))
    tensors = {}
    for place, (name, shape, spread, offset) in enumerate(_tensors()):
        drawn = numbers[place * 3001 :][: math.prod(shape)]  # drawing all of them would take seconds
        tensors[f"backbone.{name}"] = drawn.reshape(shape) * spread + offset
    tensors |= {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.mlp.0.weight": torch.zeros(4, 4)}
    torch.save({"teacher": tensors}, path)
    return path


def _tensors() -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    """Yield name, shape, spread and offset of each tensor of the backbone."""
    yield "cls_token", (1, 1, _WIDTH), 0.02, 0
    yield "pos_embed", (1, 257, _WIDTH), 0.02, 0
    yield "mask_token", (1, _WIDTH), 0.02, 0
    yield from _linear("patch_embed.proj", (_WIDTH, 3, 14, 14))
    for number in range(_BLOCKS):
        block = f"blocks.{number // _CHUNK}.{number}"
        for norm in ("norm1", "norm2"):
            yield from _norm(f"{block}.{norm}")
        yield from _linear(f"{block}.attn.qkv", (3 * _WIDTH, _WIDTH))
        yield from _linear(f"{block}.attn.proj", (_WIDTH, _WIDTH))
        yield from _linear(f"{block}.mlp.w12", (2 * _HIDDEN, _WIDTH))
        yield from _linear(f"{block}.mlp.w3", (_WIDTH, _HIDDEN))
        for scale in ("ls1", "ls2"):
            yield f"{block}.{scale}.gamma", (_WIDTH,), 0.0, 0.1
    yield from _norm("norm")


def _linear(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    yield f"{name}.weight", shape, 0.02, 0
    yield f"{name}.bias", shape[:1], 0.0, 0


def _norm(name: str) -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    yield f"{name}.weight", (_WIDTH,), 0.0, 1
    yield f"{name}.bias", (_WIDTH,), 0.0, 0

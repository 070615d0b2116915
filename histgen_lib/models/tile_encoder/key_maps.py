"""The names that publishers give to an encoder's tensors, and what we call them: timm's names throughout.

Each function takes the tensors of a weights file, by name, and the network that they are for, and returns
them by that network's names. What a network has no use for (heads, mask tokens, text towers) is left out; any
other tensor keeps its name, so that a file of something else is found out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
KeyMap = Callable[[Tensors, nn.Module], Tensors]

_WRAPPERS = ("teacher", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "backbone.", "_orig_mod.")


def unwrapped(content: Mapping[str, Any]) -> Tensors:
    """Return the tensors of a checkpoint, out of what training scripts wrap around them.

    Raises ValueError if there are none.
    """
    for name in _WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, Mapping):
            return unwrapped(inner)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors")
    for prefix in _PREFIXES:
        own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if own and (prefix == "backbone." or len(own) == len(tensors)):
            return own  # beside a backbone are heads of its training
    return tensors


def timm(tensors: Tensors, network: nn.Module) -> Tensors:
    """Leave timm's own names as they are, without the classifier that we never build."""
    unused = ("head.", "head_drop.", "fc.", "classifier.")
    known = network.state_dict()
    return {n: value for n, value in tensors.items() if n in known or not n.startswith(unused)}


def dinov2(tensors: Tensors, _: nn.Module) -> Tensors:
    """Take the names of Meta's DINOv2, of a flat list of blocks or of chunks ("blocks.<chunk>.<block>.…")."""
    renamed = _renamed(
        tensors,
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
        (r"^register_tokens$", "reg_token"),
    )
    return _registers_apart(_without(renamed, ("mask_token",)))


def transformers(tensors: Tensors, _: nn.Module) -> Tensors:
    """Take the names of DINOv2 in Hugging Face's transformers, with or without registers."""
    renamed = _renamed(
        _without(tensors, ("embeddings.mask_token", "pooler.", "classifier.")),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
        (r"^layernorm\.", "norm."),
    )
    return _registers_apart(_joined(renamed, ".attn.", ("query", "key", "value"), "qkv"))


def _renamed(tensors: Tensors, *rules: tuple[str, str]) -> Tensors:
    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {renamed(name): value for name, value in tensors.items()}


def _without(tensors: Tensors, prefixes: Iterable[str]) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.startswith(tuple(prefixes))}


def _joined(tensors: Tensors, place: str, parts: tuple[str, ...], whole: str) -> Tensors:
    """Stack the weights of several linear maps, wherever all are there, to one map's."""
    joined = dict(tensors)
    for name in tensors:
        names = [name.replace(f"{place}{parts[0]}.", f"{place}{part}.") for part in parts]
        if f"{place}{parts[0]}." in name and all(n in tensors for n in names):
            joined[name.replace(f"{place}{parts[0]}.", f"{place}{whole}.")] = torch.cat(
                [joined.pop(n) for n in names]
            )
    return joined


def _registers_apart(tensors: Tensors) -> Tensors:
    """Add the class token's position to the token where there are registers, as timm has it."""
    if not {"reg_token", "cls_token", "pos_embed"} <= set(tensors):
        return tensors
    positions = tensors["pos_embed"]
    return tensors | {
        "cls_token": tensors["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }

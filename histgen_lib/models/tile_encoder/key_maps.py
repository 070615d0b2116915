"""The names that publishers give to an encoder's tensors, and what we call them: timm's names throughout.

Each function takes the tensors of a weights file, by name, and the network that they are for, and returns
them by that network's names. What a network has no use for (heads, mask tokens, text towers) is left out; any
other tensor keeps its name, so that a file of something else is found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Tensors = dict[str, Tensor]

_WRAPPERS = ("teacher", "state_dict", "model_state_dict", "model")
_POSITIONS = "trunk.pos_embed"
_BACKBONE = "backbone."
_PREFIXES = ("module.", "_orig_mod.", "network.", _BACKBONE)


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
        if own and (prefix == _BACKBONE or len(own) == len(tensors)):
            tensors = own  # beside a backbone are the heads of its training
    return tensors


def timm(tensors: Tensors, network: nn.Module) -> Tensors:
    """Take timm's and torchvision's names; without classifier and stages that are not built."""
    known = network.state_dict()
    unused = ("head.", "fc.", "classifier.", "layer4.")
    return _positioned({n: v for n, v in tensors.items() if n in known or not n.startswith(unused)}, network)


def dinov2(tensors: Tensors, network: nn.Module) -> Tensors:
    """Take the names of Meta's DINOv2, of a flat list of blocks or of chunks ("blocks.<chunk>.<block>.…")."""
    renamed = _renamed(
        _without(tensors, ("mask_token", "head.")),
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
        (r"^register_tokens$", "reg_token"),
    )
    return _positioned(_apart(renamed) if "register_tokens" in tensors else renamed, network)


def transformers(tensors: Tensors, network: nn.Module) -> Tensors:
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
    joined = _joined(renamed, "attn.query.", ("attn.key.", "attn.value."), "attn.qkv.")
    return _positioned(_apart(joined) if "embeddings.register_tokens" in tensors else joined, network)


def ctranspath(tensors: Tensors, network: nn.Module) -> Tensors:
    """Take the names of timm 0.5's Swin, where a stage's last step halved the map that it gave on."""

    def place(name: str) -> str:
        return re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)

    if "layers.0.downsample.reduction.weight" not in tensors:
        return timm(tensors, network)
    computed = ("relative_position_index", "attn_mask")
    kept = {n: v for n, v in tensors.items() if not n.endswith(computed) and not n.startswith("head.")}
    return {place(n): value for n, value in kept.items()}


def conch(tensors: Tensors, _: nn.Module) -> Tensors:
    """Take the names of CONCH, which come with a text tower and a decoder, or of CONCH v1.5's tower alone."""
    text = ("text.", "text_decoder.", "logit_scale")
    unused = ("attn_pool_caption.", "ln_caption.", "proj_contrast")
    tower = _without(_renamed(_without(tensors, text), (r"^visual\.", "")), unused)
    renamed = _renamed(
        tower,
        (r"^attn_pool_contrast\.ln_(q|k)\.", r"pool.norm_\1."),
        (r"^attn_pool_contrast\.attn\.(q|k|v)_proj_weight$", r"pool.\1.weight"),
        (r"^attn_pool_contrast\.attn\.in_proj_bias$", "pool.qkv.bias"),
        (r"^attn_pool_contrast\.attn\.out_proj\.", "pool.out."),
        (r"^attn_pool_contrast\.to_", "pool."),
        (r"^attn_pool_contrast\.", "pool."),
        (r"^ln_contrast\.", "norm."),
    )
    parted = _parted(renamed, "pool.qkv.bias", ("pool.q.bias", "pool.k.bias", "pool.v.bias"))
    return _parted(parted, "pool.kv.weight", ("pool.k.weight", "pool.v.weight"))


def conch_spread(tensors: Tensors, network: nn.Module) -> Tensors:
    """Take CONCH v1.5's names, and spread its positions, learnt for 14 × 14 patches, over the tile's grid.

    Its code spreads them at every call, by a factor that is a tenth of a patch too large: so do we, once.
    """
    renamed = conch(tensors, network)
    positions, wanted = renamed.get(_POSITIONS), network.state_dict()[_POSITIONS]
    if positions is None or positions.shape == wanted.shape:
        return renamed
    side, wanted_side = (round((count - 1) ** 0.5) for count in (positions.shape[1], wanted.shape[1]))
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    factor = (wanted_side + 0.1) / side
    spread = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return renamed | {_POSITIONS: torch.cat([positions[:, :1], spread.flatten(2).transpose(1, 2)], dim=1)}


def _renamed(tensors: Tensors, *rules: tuple[str, str]) -> Tensors:
    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {renamed(name): value for name, value in tensors.items()}


def _without(tensors: Tensors, prefixes: Iterable[str]) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.startswith(tuple(prefixes))}


def _joined(tensors: Tensors, first: str, others: tuple[str, ...], whole: str) -> Tensors:
    """Stack the tensors of linear maps that read the same input, wherever all are there, to one map's."""
    joined = dict(tensors)
    for name in tensors:
        names = [name, *(name.replace(first, other) for other in others)]
        if first in name and all(n in tensors for n in names):
            joined[name.replace(first, whole)] = torch.cat([joined.pop(n) for n in names])
    return joined


def _parted(tensors: Tensors, whole: str, parts: tuple[str, ...]) -> Tensors:
    """Cut a tensor that stacks those of several linear maps."""
    if whole not in tensors:
        return tensors
    pieces = tensors[whole].chunk(len(parts))
    return {n: v for n, v in tensors.items() if n != whole} | dict(zip(parts, pieces, strict=True))


def _apart(tensors: Tensors) -> Tensors:
    """Add the class token's position to the token: with registers, timm has positions of patches alone."""
    if not {"cls_token", "pos_embed"} <= set(tensors):
        return tensors
    positions = tensors["pos_embed"]
    token = tensors["cls_token"] + positions[:, :1]
    return tensors | {"cls_token": token, "pos_embed": positions[:, 1:]}


def _positioned(tensors: Tensors, network: Any) -> Tensors:
    """Spread learnt positions over another grid of patches, as timm does, where the tile's size differs."""
    positions, own = tensors.get("pos_embed"), getattr(network, "pos_embed", None)
    if positions is None or own is None or positions.ndim != 3 or positions.shape == own.shape:
        return tensors
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    grid = network.patch_embed.grid_size
    return tensors | {"pos_embed": resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)}

"""Weights trained with the authors' code (hudingyi/FGCR) in our network, and its numbers under their names.

Nothing in a file is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr.anchors import published_anchors
from histgen_lib.models.fgcr.config import MOST_REGIONS, FgcrConfig
from histgen_lib.models.fgcr.losses import Batch
from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.official_case import case_of
from histgen_lib.models.fgcr.published_losses import published_losses
from histgen_lib.models.state_dict import Source, as_weight, read_state

_UNREAD = re.compile(r"position_ids|text_head\.bias")
"""A count, and the other name of `text_head.decoder.bias`."""

# Applied in order to a published name; each names one piece of the network.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^to_patch_embedding\.", "tile_map."),
        (r"^img_cls_token$", "whole_token"),
        (r"^kernel_token$", "anchor_token"),
        (r"^kt\.layers\.(\d+)\.0\.", r"blocks.\1.norm."),
        (r"^kt\.layers\.(\d+)\.1\.to_qkv\.", r"blocks.\1.attention.inward."),
        (r"^kt\.layers\.(\d+)\.1\.to_out\.0\.", r"blocks.\1.attention.outward."),
        (r"^kt\.layers\.(\d+)\.2\.norm\.", r"blocks.\1.feed_norm."),
        (r"^kt\.layers\.(\d+)\.2\.fn\.net\.0\.", r"blocks.\1.expand."),
        (r"^kt\.layers\.(\d+)\.2\.fn\.net\.3\.", r"blocks.\1.contract."),
        (r"^text_position_embeddings\.", "text.position_embed."),
        (r"^text_embedding\.", "text.word_embed."),
        (r"^text_linear\.", "text.word_map."),
        (r"^text_cls_token$", "text.whole_token"),
        (r"^LayerNorm\.", "text.entry_norm."),
        (r"^text_encoder\.norm\.", "text.norm."),
        (r"^text_encoder\.layers\.(\d+)\.self_attn\.", r"text.blocks.\1.attention."),
        (r"^text_encoder\.layers\.(\d+)\.linear1\.", r"text.blocks.\1.expand."),
        (r"^text_encoder\.layers\.(\d+)\.linear2\.", r"text.blocks.\1.contract."),
        (r"^text_encoder\.layers\.(\d+)\.norm1\.", r"text.blocks.\1.attention_norm."),
        (r"^text_encoder\.layers\.(\d+)\.norm2\.", r"text.blocks.\1.feed_norm."),
        (r"^text_head\.transform\.dense\.", "word_guess.dense."),
        (r"^text_head\.transform\.LayerNorm\.", "word_guess.norm."),
        (r"^text_head\.decoder\.", "word_guess.scores."),
        (r"^local_atten_layer\.", "local_attention."),
        (r"^mlp_head\.0\.", "prompt_norm."),
        (r"^mlp_head\.1\.", "prompt_scores."),
        (r"\.in_proj_(weight|bias)$", r".inward.\1"),
        (r"^local_attention\.in_proj_(weight|bias)$", r"local_attention.inward.\1"),
        (r"\.out_proj\.", ".outward."),
    )
)

_SIZES = {
    "patch_dim": "input_dim",
    "num_kernel": "num_anchors",
    **{
        name: name
        for name in (
            "prompt_num", "dim", "depth", "heads", "mlp_dim", "dim_head", "text_heads", "text_layers",
            "text_ff", "vocab_size",
        )
    },
}  # fmt: skip
"""Sizes as they are passed -> as FgcrConfig names them."""


class OfficialFgcr:
    """A published FGCR with its weights, in evaluation mode on the CPU, in float32."""

    def __init__(self, network: Fgcr) -> None:
        self.network = network

    def run(self, case: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """Compute a batch of B slides (N tiles, K anchors) with their texts (T words), of width d.

        In, arrays: feats [B, N, D], soft_mask [B, K, N], node_mask [B, N, 1], anchor_mask [B, K, 1], text
        [B, T, 1], text_mask [B, T, 1], prompt_vocab_ids [P]. Out: img_cls [B, d], anchor_ebd [B, K, d],
        text_cls [B, d], t_feat [B, 1 + T, d], text_ebd [B, T, d], prompt_ebd [B, P, d], and
        anchors_layer0, … [B, K, d], one for each layer. Raises InvalidInputError: "tensor-missing",
        "tensor-shape", "tokens-unknown".
        """
        batch = case_of(case, self.network.config, with_losses=False)
        with torch.inference_mode():
            found = self._outputs(batch)
        return {name: value.numpy() for name, value in found.items()}

    def losses(self, case: Mapping[str, Any]) -> dict[str, float]:
        """Compute the losses of a batch: pc_image, pc_text, apa, wra, cta_patch, cta_text, mlm and total.

        In, besides what `run` takes: prompt [B, L, 1], numbers of prompts, prompt_mask [B, L, 1], mlm_uniform
        [B, T, 1]. Raises as `run`.
        """
        batch = case_of(case, self.network.config, with_losses=True)
        with torch.inference_mode():
            return {name: float(value) for name, value in published_losses(self.network, batch).items()}

    def anchors(self, pos: npt.NDArray[Any], npk: int) -> npt.NDArray[np.int64]:
        """Return the anchors of regions of `npk` tiles at grid positions [N, 2]; see `published_anchors`."""
        return published_anchors(np.asarray(pos), npk)

    def _outputs(self, batch: Batch) -> dict[str, Tensor]:
        seen, read = self.network.see(batch.slides), self.network.read(batch.texts)
        prompts = self.network.text.read_sequence(batch.prompts.tokens.T)
        found = {
            "img_cls": seen.whole,
            "anchor_ebd": seen.layers[-1],
            "text_cls": read.whole,
            "t_feat": read.entered,
            "text_ebd": read.words,
            "prompt_ebd": prompts.expand(len(seen.whole), -1, -1),
        }
        return found | {f"anchors_layer{place}": layer for place, layer in enumerate(seen.layers)}


def load_official(source: Source, sizes: Mapping[str, Any] | None = None, **more: object) -> OfficialFgcr:
    """Build a published FGCR with officially trained weights.

    `source`: a state dict of tensors or NumPy arrays, a training checkpoint with one, or a path or an open
    binary file of either. Sizes come as a mapping or one by one: patch_dim, prompt_num, dim, depth, heads,
    mlp_dim, dim_head, num_kernel (25), text_heads, text_layers, text_ff, vocab_size. heads (or dim_head) and
    text_heads are required: the weights do not determine them, and a wrong one computes wrong vectors. The
    rest is read from the weights, with which sizes that are passed must agree.

    Raises InvalidInputError: "checkpoint-unreadable", "checkpoint-size-unknown", "checkpoint-size-invalid",
    "checkpoint-size-missing", "checkpoint-size-mismatch", "checkpoint-keys-unknown",
    "checkpoint-keys-missing", "checkpoint-not-finite", "model-config".
    """
    state = read_state(source)
    weights = {_renamed(n): as_weight(n, value) for n, value in state.items() if not _UNREAD.fullmatch(n)}
    network = Fgcr(_config(weights, _passed({**(sizes or {}), **more})))
    _fill(network, weights)
    return OfficialFgcr(network.eval())


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _passed(sizes: Mapping[str, Any]) -> dict[str, int]:
    unknown = sorted(set(sizes) - set(_SIZES))
    if unknown:
        raise InvalidInputError(
            "checkpoint-size-unknown",
            f"Unknown sizes: {', '.join(unknown)}.",
            hint=f"Known: {', '.join(_SIZES)}.",
        )
    given = {name: value for name, value in sizes.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real) or float(value) % 1 or value < 1:
            raise InvalidInputError(
                "checkpoint-size-invalid",
                f"{name} must be a whole number of at least 1, not {value!r}.",
                hint="Correct this size.",
            )
    return {_SIZES[name]: int(float(value)) for name, value in given.items()}


def _config(weights: Mapping[str, Tensor], passed: Mapping[str, int]) -> FgcrConfig:
    found = _sizes_of(weights)
    inner = found.pop("inner")
    wrong = [f"{n} is {found[n]}, not {value}" for n, value in passed.items() if found.get(n, value) != value]
    heads = passed.get("heads") or inner // passed.get("dim_head", inner + 1)
    if not wrong and heads and inner != heads * passed.get("dim_head", inner // heads):
        wrong = [f"heads times dim_head is {inner}"]
    if wrong:
        raise InvalidInputError(
            "checkpoint-size-mismatch", f"In these weights {', '.join(wrong)}.", hint="Correct these sizes."
        )
    missing = [
        name for name, value in {"heads": heads, "text_heads": passed.get("text_heads")}.items() if not value
    ]
    if missing:
        raise InvalidInputError(
            "checkpoint-size-missing",
            f"The weights do not determine {', '.join(missing)}.",
            hint="Pass the values of the training: wrong ones compute wrong vectors.",
        )
    sizes = {"num_anchors": MOST_REGIONS, **found, **passed, "heads": heads, "dim_head": inner // heads}
    return FgcrConfig.from_json({"mode": "published", **sizes})


def _sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the sizes that the weights determine; "inner" is heads times dim_head."""
    dim, input_dim = _matrix(weights, "tile_map.weight")
    vocab_size, word_dim = _matrix(weights, "text.word_embed.weight")
    return {
        "dim": dim,
        "input_dim": input_dim,
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "inner": _matrix(weights, "blocks.0.attention.inward.weight")[0] // 3,
        "mlp_dim": _matrix(weights, "blocks.0.expand.weight")[0],
        "text_ff": _matrix(weights, "text.blocks.0.expand.weight")[0],
        "prompt_num": _matrix(weights, "prompt_scores.weight")[0],
        "max_words": _matrix(weights, "text.position_embed.weight")[0],
        "depth": _layers(weights, "blocks"),
        "text_layers": _layers(weights, "text.blocks"),
    }


def _layers(weights: Mapping[str, Tensor], name: str) -> int:
    return len({found[1] for key in weights if (found := re.match(rf"{re.escape(name)}\.(\d+)\.", key))})


def _matrix(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in weights:
        raise _other("checkpoint-keys-missing", f"The weights lack what we call {name}.")
    shape = tuple(weights[name].shape)
    if len(shape) != 2:
        raise _other("checkpoint-size-mismatch", f"{name} is {list(shape)}, not a matrix.")
    return shape


def _fill(network: Fgcr, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the network; each must have its shape, but for axes of length 1 of the tokens."""
    expected = network.state_dict()
    unknown, missing = sorted(set(weights) - set(expected)), sorted(set(expected) - set(weights))
    if unknown:
        raise _other("checkpoint-keys-unknown", f"This network has no place for {', '.join(unknown)}.")
    if missing:
        raise _other("checkpoint-keys-missing", f"The weights lack what we call {', '.join(missing)}.")
    found = {n: w.reshape(-1) if n.endswith("_token") else w for n, w in weights.items()}
    wrong = [
        f"{name} is {list(value.shape)}, not {list(expected[name].shape)}"
        for name, value in found.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise _other("checkpoint-size-mismatch", f"Weights of an unexpected shape: {', '.join(wrong)}.")
    network.load_state_dict(found)


def _other(code: str, message: str) -> InvalidInputError:
    return InvalidInputError(
        code, message, hint="Only checkpoints of the published FGCR (model.py) can be loaded."
    )

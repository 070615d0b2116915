"""Weights trained with the authors' code (dddavid4real/HistGen) loaded into our network.

Takes a state dict, or a file holding one or a whole training checkpoint ({"state_dict": …}). Names that
the published forward pass never reads are dropped; a name that is neither needed nor known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.network import HistGen

_CORE = "encoder_decoder."

# Sizes as the authors' options name them -> as HistGenConfig does.
_SIZE_NAMES = {
    "vocab_words": "vocab_size",
    "max_seq_length": "max_tokens",
    "drop_prob_lm": "feature_dropout",
    **{
        name: name
        for name in (
            "input_dim", "d_model", "d_ff", "d_vf", "num_heads", "num_layers", "topk",
            "cmm_size", "cmm_dim", "prototype_num", "region_size", "dropout",
        )
    },
}  # fmt: skip

_UNREAD = re.compile(
    r"visual_extractor\..*"
    r"|encoder_decoder\.model\.encoder\.layer\.\d+\.(attn|ff)\..*"
    r"|encoder_decoder\.model\.encoder\.layer\.\d+\.position_embeddings\.weight"
    r"|encoder_decoder\.model\.encoder\.layer\.[1-9]\d*\.global_token"
    r"|encoder_decoder\..*\.pe"  # sinusoidal tables: a formula, not weights
)

# Applied in order to a published name; each names one piece of the network.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^wsi_mapping\.", "feature_map."),
        (r"^encoder_decoder\.att_embed\.0\.", "feature_embed."),
        (r"^encoder_decoder\.memory_matrix$", "memory"),
        (r"^encoder_decoder\.cmn\.linears", "memory_attention.linears"),
        (r"^encoder_decoder\.attn_mem\.linears", "prototype_attention.linears"),
        (r"^encoder_decoder\.logit\.", "logit."),
        (r"^encoder_decoder\.model\.tgt_embed\.0\.lut\.", "word_embed."),
        (r"^encoder_decoder\.model\.encoder\.layer\.0\.global_token$", "encoder.region_token"),
        (r"^encoder_decoder\.model\.encoder\.layer\.(\d+)\.region_encoder\.", r"encoder.region_blocks.\1."),
        (r"^encoder_decoder\.model\.encoder\.layer\.0\.WSI_encoder\.", "encoder.slide_block."),
        (r"^encoder_decoder\.model\.encoder\.norm\.", "encoder.norm."),
        (r"^encoder_decoder\.model\.encoder\.pooler\.", "encoder.pooling."),
        (r"\.attentive_pooling\.lin_proj\.", ".project."),
        (r"\.attentive_pooling\.v\.", ".score."),
        (r"^encoder_decoder\.model\.decoder\.layers\.(\d+)\.", r"decoder.blocks.\1."),
        (r"^encoder_decoder\.model\.decoder\.norm\.", "decoder.norm."),
        (r"^(encoder\..*)\.self_attn\.", r"\1.attention."),
        (r"^(decoder\..*)\.self_attn\.", r"\1.self_attention."),
        (r"\.src_attn\.", ".region_attention."),
        (r"\.sublayer\.(\d)\.norm\.", r".norms.\1."),
        (r"\.w_1\.", ".expand."),
        (r"\.w_2\.", ".contract."),
        (r"\.a_2$", ".weight"),
        (r"\.b_2$", ".bias"),
        (r"\.linears\.0\.", ".query."),
        (r"\.linears\.1\.", ".key."),
        (r"\.linears\.2\.", ".value."),
        (r"\.linears\.3\.", ".output."),
    )
)


def load_official(state_dict_or_path: Mapping[str, Tensor] | str | Path, **sizes: float) -> HistGen:
    """Build a `published`-mode HistGen with officially trained weights, in evaluation mode, on the CPU.

    `sizes` are named as the authors' options: vocab_words, max_seq_length, d_model, d_ff, d_vf, num_heads,
    num_layers, topk, cmm_size, cmm_dim, prototype_num, region_size, input_dim. What the weights tell is
    read from them (and must agree with what is stated); num_heads, topk, prototype_num, region_size and
    max_seq_length are not in them and default to the published settings (8, 512, 512, 96, 100).

    Raises InvalidInputError: "checkpoint-unreadable", "checkpoint-size-unknown", "checkpoint-size-mismatch",
    "checkpoint-keys-unknown", "checkpoint-keys-missing", "checkpoint-alias-differs", "model-config".
    """
    weights = _clean(_read(state_dict_or_path))
    config = _config(weights, sizes)
    model = HistGen(config)
    _fill(model, {_rename(name): value for name, value in weights.items()})
    return model.eval()


def _read(source: Mapping[str, Tensor] | str | Path) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        content: Any = source
    else:
        content = _read_file(Path(source))
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InvalidInputError(
            "checkpoint-unreadable",
            "This file holds neither a state dict nor a training checkpoint with one.",
            hint="Give the model_best.pth that HistGen's training wrote.",
        )
    return content


def _read_file(path: Path) -> Any:
    # Training checkpoints carry the best score as a NumPy scalar; these types hold numbers only.
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [np.dtype, np.float64, type(np.dtype(np.float64))]
    harmless += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(harmless):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidInputError("checkpoint-unreadable", f"Cannot read {path.name}: {error}.") from error
    except Exception as error:  # torch raises pickle, zip and runtime errors of many kinds here
        raise InvalidInputError(
            "checkpoint-unreadable",
            f"{path.name} is not a PyTorch weights file ({type(error).__name__}).",
            hint="Files that need code to be run on loading are refused.",
        ) from error


def _clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as one process without wrappers would have saved them, aliases and unread weights removed."""
    named = {name.removeprefix("module."): value for name, value in state.items()}
    alias = f"{_CORE}model.cmn."
    read = {name: value for name, value in named.items() if not _UNREAD.fullmatch(name)}
    kept = {name: value for name, value in read.items() if not name.startswith(alias)}
    for name in read.keys() - kept.keys():
        _merge_alias(kept, name.replace(alias, f"{_CORE}cmn."), read[name])
    return kept


def _merge_alias(kept: dict[str, Tensor], name: str, value: Tensor) -> None:
    if not torch.equal(kept.setdefault(name, value), value):
        raise InvalidInputError(
            "checkpoint-alias-differs",
            f"{name} is stored twice with different values; the published model shares one.",
            hint="Was the checkpoint edited? Take the one that training wrote.",
        )


def _config(weights: Mapping[str, Tensor], sizes: Mapping[str, float]) -> HistGenConfig:
    unknown = sorted(set(sizes) - set(_SIZE_NAMES))
    if unknown:
        raise InvalidInputError(
            "checkpoint-size-unknown",
            f"Unknown sizes: {', '.join(unknown)}.",
            hint=f"Known: {', '.join(_SIZE_NAMES)}.",
        )
    told = _told_by(weights)
    wrong = {n: told[n] for n, v in sizes.items() if n in told and told[n] != v}
    if wrong:
        stated = ", ".join(f"{n} is {told[n]}, not {sizes[n]}" for n in wrong)
        raise InvalidInputError(
            "checkpoint-size-mismatch", f"In these weights {stated}.", hint="Leave these sizes out."
        )
    values = {_SIZE_NAMES[name]: value for name, value in {**told, **sizes}.items()}
    return HistGenConfig.from_json({"mode": "published", **values})


def _told_by(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read off the weights the sizes they tell."""
    logit = _need(weights, f"{_CORE}logit.weight")
    mapping = _need(weights, "wsi_mapping.weight")
    memory = _need(weights, f"{_CORE}memory_matrix")
    layers = {m[1] for n in weights if (m := re.match(rf"{_CORE}model\.decoder\.layers\.(\d+)\.", n))}
    return {
        "vocab_words": logit.shape[0] - 1,
        "d_model": logit.shape[1],
        "d_vf": mapping.shape[0],
        "input_dim": mapping.shape[1],
        "cmm_size": memory.shape[0],
        "cmm_dim": memory.shape[1],
        "d_ff": _need(weights, f"{_CORE}model.decoder.layers.0.feed_forward.w_1.weight").shape[0],
        "num_layers": len(layers),
    }


def _need(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise InvalidInputError(
            "checkpoint-keys-missing", f"The weights lack {name}.", hint="Is this a HistGen checkpoint?"
        )
    return weights[name]


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _fill(model: HistGen, weights: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    _refuse("checkpoint-keys-unknown", "Weights this model has no place for", set(weights) - set(wanted))
    _refuse("checkpoint-keys-missing", "The weights lack", set(wanted) - set(weights))
    shaped = {n: v.reshape(wanted[n].shape) for n, v in weights.items() if v.numel() == wanted[n].numel()}
    _refuse("checkpoint-size-mismatch", "Weights of an unexpected shape", set(weights) - set(shaped))
    model.load_state_dict(shaped)


def _refuse(code: str, what: str, names: set[str]) -> None:
    if names:
        raise InvalidInputError(
            code,
            f"{what}: {', '.join(sorted(names))}.",
            hint="Only checkpoints of the published HistGen (histgen_model.py) can be loaded.",
        )

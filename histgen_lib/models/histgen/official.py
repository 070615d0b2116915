"""Weights trained with the authors' code (dddavid4real/HistGen) loaded into our network.

Takes a state dict, or a file with one or with a whole training checkpoint ({"state_dict": …}). Names that the
published forward pass never reads are dropped; a name that is neither needed nor known is an error, and so is
a weight of a shape other than in the authors' code. Nothing in a file is executed.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.official_sizes import (
    CORE,
    POSITION_TABLE,
    Options,
    assumed_sizes,
    read_config,
)
from histgen_lib.models.state_dict import Source, as_weight, read_state

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


_REGION_TOKEN = "encoder.region_token"


def load_official(state_dict_or_path: Source, sizes: Options | None = None, **more: object) -> HistGen:
    """Build a `published`-mode HistGen with officially trained weights, in evaluation mode, on the CPU.

    `state_dict_or_path`: a state dict of tensors or NumPy arrays, a training checkpoint with one, a path
    or an open binary file of either (loaded without running code), or the authors' model itself.

    Sizes come as a mapping, as the authors' parsed options, or one by one (these take precedence), under the
    names of the authors' options: vocab_words, max_seq_length, d_model, d_ff, d_vf, num_heads, num_layers,
    topk, cmm_size, cmm_dim, prototype_num, region_size, input_dim, dropout, drop_prob_lm.
    num_heads, topk, prototype_num and region_size are required: the weights do not determine them, and a
    wrong one loads but computes wrong output. (region_size is inferred if the weights still include the
    authors' position table and it fits only one size.) max_seq_length defaults to the published 100. The rest
    is read from the weights; sizes that are passed must agree with them. The authors' options for data,
    training and decoding are ignored.

    Raises InvalidInputError: "checkpoint-unreadable", "checkpoint-size-unknown", "checkpoint-size-invalid",
    "checkpoint-size-missing", "checkpoint-size-mismatch", "checkpoint-keys-unknown",
    "checkpoint-keys-missing", "checkpoint-alias-differs", "checkpoint-not-finite", "model-config".
    """
    state = read_state(state_dict_or_path)
    weights = _read_weights(state)
    model = HistGen(read_config(weights, _rows(state.get(POSITION_TABLE)), _options(sizes, more)))
    _fill(model, weights)
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read names and values of a file once; `load_official` takes both, and raises the same errors."""
    return read_state(path)


def published_sizes(state: Mapping[str, Any], sizes: Options | None = None) -> dict[str, int]:
    """Return the published training's values of required sizes that neither `sizes` nor the weights state.

    Returns {} if any size that the weights do state is not the published one. Raises
    InvalidInputError("checkpoint-keys-missing", "checkpoint-size-mismatch").
    """
    weights = {name: value for name, value in state.items() if hasattr(value, "shape")}
    return assumed_sizes(weights, _rows(state.get(POSITION_TABLE)), _options(sizes, {}))


def _options(sizes: object, more: Mapping[str, object]) -> dict[str, object]:
    options = vars(sizes) if isinstance(sizes, Namespace) else {} if sizes is None else sizes
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            "checkpoint-size-invalid",
            f"Pass sizes as a mapping or by name, not as {type(sizes).__name__}.",
            hint="For example load_official(path, num_heads=8, topk=512, prototype_num=512, region_size=96).",
        )
    return {**options, **more}


def _rows(table: object) -> int:
    shape: tuple[int, ...] = getattr(table, "shape", ())
    return int(shape[0]) if len(shape) == 2 else 0


def _read_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that the forward pass reads, under the authors' names, each once."""
    alias = f"{CORE}model.cmn."
    read = {name: as_weight(name, value) for name, value in state.items() if not _UNREAD.fullmatch(name)}
    kept = {name: value for name, value in read.items() if not name.startswith(alias)}
    for name in read.keys() - kept.keys():
        _merge_alias(kept, name.replace(alias, f"{CORE}cmn."), read[name])
    return kept


def _merge_alias(kept: dict[str, Tensor], name: str, value: Tensor) -> None:
    if not torch.equal(kept.setdefault(name, value), value):
        raise InvalidInputError(
            "checkpoint-alias-differs",
            f"{name} is stored twice with different values; the published model shares one.",
            hint="The checkpoint may have been edited: use the one that training wrote.",
        )


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _fill(model: HistGen, weights: Mapping[str, Tensor]) -> None:
    """Copy weights under the authors' names into the model; each must have exactly the expected shape."""
    expected = model.state_dict()
    published = {_rename(name): name for name in weights}
    _refuse(
        "checkpoint-keys-unknown",
        "Weights this model has no place for",
        {published[name] for name in set(published) - set(expected)},
    )
    _refuse("checkpoint-keys-missing", "The weights lack", set(expected) - set(published))
    found = {name: _unwrapped(name, weights[source]) for name, source in published.items()}
    wrong = {
        f"{published[name]} is {list(weights[published[name]].shape)}, not {list(expected[name].shape)}"
        for name, value in found.items()
        if value.shape != expected[name].shape
    }
    _refuse("checkpoint-size-mismatch", "Weights of an unexpected shape", wrong)
    model.load_state_dict(found)


def _unwrapped(name: str, value: Tensor) -> Tensor:
    """Drop the two axes of length 1 that the authors' region token has and ours has not."""
    if name == _REGION_TOKEN and value.ndim == 3 and value.shape[:2] == (1, 1):
        return value[0, 0]
    return value


def _refuse(code: str, what: str, names: set[str]) -> None:
    if names:
        raise InvalidInputError(
            code,
            f"{what}: {', '.join(sorted(names))}.",
            hint="Only checkpoints of the published HistGen (histgen_model.py) can be loaded.",
        )

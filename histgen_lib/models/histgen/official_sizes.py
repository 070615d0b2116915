"""The sizes of a published HistGen: from its weights, and from training options for the rest.

Options are named as in the authors' training script. Options that do not affect what loaded weights compute
are accepted, too, so that a whole set of parsed options can be passed on.
"""

from __future__ import annotations

import math
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.config import HistGenConfig

CORE = "encoder_decoder."
POSITION_TABLE = f"{CORE}model.encoder.layer.0.position_embeddings.weight"

# Whole numbers, as the authors' options name them -> as HistGenConfig does.
_WHOLE = {
    "vocab_words": "vocab_size",
    "max_seq_length": "max_tokens",
    **{
        name: name
        for name in (
            "input_dim", "d_model", "d_ff", "d_vf", "num_heads", "num_layers", "topk",
            "cmm_size", "cmm_dim", "prototype_num", "region_size",
        )
    },
}  # fmt: skip
_SHARES = {"dropout": "dropout", "drop_prob_lm": "feature_dropout"}
_NAMES = _WHOLE | _SHARES

_NEEDED = ("num_heads", "topk", "prototype_num", "region_size")
"""Not in the weights (for region_size see `_region_size_of`); wrong values compute wrong outputs."""

_SIGNS = ("d_model", "d_ff", "d_vf", "num_layers", "cmm_size", "cmm_dim")
"""Sizes that the weights reveal; where all of them are the published ones, the others most likely are."""

_ONLY = {
    "bos_idx": 0,
    "eos_idx": 0,
    "pad_idx": 0,
    "use_bn": 0,
    "logit_layers": 1,
    "output_logsoftmax": 1,
    "model_name": "histgen",
}
"""Options for which any other value means another model than the published one."""

_IGNORED = frozenset(
    (
        "image_dir", "ann_path", "dataset_name", "threshold", "num_workers", "batch_size",
        "visual_extractor", "visual_extractor_pretrained", "sample_method", "beam_size",
        "temperature", "sample_n", "group_size", "decoding_constraint", "block_trigrams", "n_gpu",
        "epochs", "save_dir", "record_dir", "save_period", "monitor_mode", "monitor_metric",
        "early_stop", "log_period", "optim", "lr_ve", "lr_ed", "weight_decay", "amsgrad",
        "lr_scheduler", "step_size", "gamma", "seed", "resume", "load",
    )
)  # fmt: skip
"""Options for data, training and decoding: not part of the network."""

_MAX_PATCHES = 100_000  # the authors' limit on tiles, from which they size a table they never read

Options = Mapping[str, Any] | Namespace


def read_config(weights: Mapping[str, Tensor], table_rows: int, options: Mapping[str, Any]) -> HistGenConfig:
    """Make the config of weights under the authors' names; `table_rows` of POSITION_TABLE, 0 without one.

    Raises InvalidInputError: "checkpoint-size-unknown", "checkpoint-size-invalid",
    "checkpoint-size-mismatch", "checkpoint-size-missing", "checkpoint-keys-missing", "model-config".
    """
    passed = _sizes_in(options)
    found = _sizes_of(weights)
    _check_agreement(passed, found)
    region_size = _region_size_of(table_rows)
    if region_size is not None and passed.setdefault("region_size", region_size) != region_size:
        warnings.warn(
            f"These weights look trained with region_size {region_size}, not {passed['region_size']}.",
            stacklevel=3,
        )
    missing = [name for name in _NEEDED if name not in passed]
    if missing:
        raise InvalidInputError(
            "checkpoint-size-missing",
            f"The weights do not determine {', '.join(missing)}.",
            hint="Pass the values of the training command or its defaults: wrong ones make wrong reports.",
        )
    values = {_NAMES[name]: value for name, value in {**found, **passed}.items()}
    return HistGenConfig.from_json({"mode": "published", **values})


def assumed_sizes(
    weights: Mapping[str, Tensor], table_rows: int, options: Mapping[str, Any]
) -> dict[str, int]:
    """Return published values of the sizes that `read_config` would miss; {} for weights of other sizes."""
    published = HistGenConfig()
    found = _sizes_of(weights)
    if any(found[name] != getattr(published, name) for name in _SIGNS):
        return {}
    told = {name for name, value in options.items() if value is not None}
    told |= {"region_size"} if _region_size_of(table_rows) is not None else set()
    return {name: int(getattr(published, name)) for name in _NEEDED if name not in told}


def _sizes_in(options: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the sizes among the options as plain numbers; None counts as absent."""
    _check_known(options)
    passed = {name: value for name, value in options.items() if name in _NAMES and value is not None}
    sizes: dict[str, int | float] = {}
    for name, value in passed.items():
        number = _whole(value) if name in _WHOLE else _number(value)
        if number is None:
            kind = "an integer" if name in _WHOLE else "a number"
            raise InvalidInputError(
                "checkpoint-size-invalid", f"{name} must be {kind}, not {value!r}.", hint="Correct this size."
            )
        sizes[name] = number
    return sizes


def _check_known(options: Mapping[str, Any]) -> None:
    unknown = sorted(str(name) for name in set(options) - set(_NAMES) - set(_ONLY) - _IGNORED)
    if unknown:
        raise InvalidInputError(
            "checkpoint-size-unknown",
            f"Unknown sizes: {', '.join(unknown)}.",
            hint=f"Known: {', '.join(_NAMES)}.",
        )
    for name, only in _ONLY.items():
        value = options.get(name, only)
        if value is not None and value != only:
            raise InvalidInputError(
                "checkpoint-size-mismatch",
                f"Only models with {name} {only} can be loaded, not {value!r}.",
                hint="This is not the published HistGen network.",
            )


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    return float(value) if isinstance(value, Real) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _check_agreement(passed: Mapping[str, int | float], found: Mapping[str, int]) -> None:
    wrong = [
        f"{name} is {found[name]}, not {value}"
        for name, value in passed.items()
        if found.get(name, value) != value
    ]
    if wrong:
        raise InvalidInputError(
            "checkpoint-size-mismatch", f"In these weights {', '.join(wrong)}.", hint="Leave these sizes out."
        )


def _sizes_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the sizes that the weights determine."""
    outputs, d_model = _matrix(weights, f"{CORE}logit.weight")
    d_vf, input_dim = _matrix(weights, "wsi_mapping.weight")
    cmm_size, cmm_dim = _matrix(weights, f"{CORE}memory_matrix")
    d_ff, _ = _matrix(weights, f"{CORE}model.decoder.layers.0.feed_forward.w_1.weight")
    layers = {m[1] for n in weights if (m := re.match(rf"{CORE}model\.decoder\.layers\.(\d+)\.", n))}
    return {
        "vocab_words": outputs - 1,
        "d_model": d_model,
        "d_vf": d_vf,
        "input_dim": input_dim,
        "cmm_size": cmm_size,
        "cmm_dim": cmm_dim,
        "d_ff": d_ff,
        "num_layers": len(layers),
    }


def _matrix(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in weights:
        raise InvalidInputError(
            "checkpoint-keys-missing", f"The weights lack {name}.", hint="Use a checkpoint of HistGen."
        )
    shape = tuple(weights[name].shape)
    if len(shape) != 2:
        raise InvalidInputError(
            "checkpoint-size-mismatch",
            f"{name} is {list(shape)}, not a matrix.",
            hint="Use a checkpoint of HistGen.",
        )
    return shape


def _region_size_of(table_rows: int) -> int | None:
    """Return the region size for which the authors' code makes a table of so many rows, if there is only one.

    The table, which nothing reads, has ceil(100000 / region_size) + 1 rows.
    """
    regions = table_rows - 1
    if regions < 2:
        return None
    smallest = math.ceil(_MAX_PATCHES / regions)
    largest = math.ceil(_MAX_PATCHES / (regions - 1)) - 1
    return smallest if smallest == largest else None

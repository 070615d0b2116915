"""A batch in the arrays of the authors' loader, checked and brought to the form that our network takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.losses import Batch
from histgen_lib.models.fgcr.network import Slides, Texts

_HIDDEN_FROM = 0.6
"""Words whose random number is at least this are hidden as keys."""


def case_of(case: Mapping[str, Any], config: FgcrConfig, *, with_losses: bool) -> Batch:
    """Read a batch; see `OfficialFgcr.run` and `OfficialFgcr.losses`.

    Raises InvalidInputError: "tensor-missing", "tensor-shape", "tokens-unknown".
    """
    found = _Case(case)
    feats = found.array("feats", (-1, -1, config.input_dim)).float()
    batch, tiles = feats.shape[:2]
    anchors = config.num_anchors
    slides = Slides(
        feats,
        found.column("node_mask", (batch, tiles)) > 0,
        torch.zeros(batch, anchors, dtype=torch.int64),
        torch.zeros(batch, anchors, dtype=torch.int64),
        found.column("anchor_mask", (batch, anchors)) > 0,
        found.array("soft_mask", (batch, anchors, tiles)).float(),
    )
    tokens = _known(found.column("text", (batch, -1)), config.vocab_size, "text")
    words = tokens.shape[1]
    if words > config.max_words:
        raise _misfit("text", f"has {words} words; this network reads {config.max_words}")
    texts = Texts(tokens, found.column("text_mask", (batch, words)) > 0)
    ids = found.array("prompt_vocab_ids", (-1,) if not with_losses else (config.prompt_num,))
    if len(ids) > config.max_words:
        raise _misfit("prompt_vocab_ids", f"has {len(ids)} prompts; this network reads {config.max_words}")
    prompts = _known(ids, config.vocab_size, "prompt_vocab_ids").unsqueeze(1)
    hidden = torch.zeros_like(texts.mask)
    targets = torch.zeros(batch, config.prompt_num)
    if with_losses:
        hidden = found.column("mlm_uniform", (batch, words)) >= _HIDDEN_FROM
        targets = _targets(found, batch, config.prompt_num)
    return Batch(
        slides,
        texts,
        Texts(prompts, torch.ones_like(prompts, dtype=torch.bool)),
        targets,
        hidden,
        reports=torch.arange(batch),
        sentences=texts,
        said=torch.eye(batch, dtype=torch.bool),
    )


class _Case:
    """The arrays of a case, by name."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        self._case = case

    def array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return an array that has this shape, -1 for any size of at least 1."""
        if name not in self._case:
            raise InvalidInputError("tensor-missing", f"The case lacks {name}.")
        found = np.asarray(self._case[name])
        if found.dtype.kind not in "biuf":
            raise _misfit(name, f"holds {found.dtype}, not numbers")
        value = torch.as_tensor(found)
        fits = value.ndim == len(shape) and all(
            wanted == size or (wanted == -1 and size >= 1)
            for wanted, size in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise _misfit(name, f"is {list(value.shape)}, not {list(shape)} (-1: any)")
        return value

    def column(self, name: str, shape: tuple[int, int]) -> Tensor:
        """Return an array whose last axis has length 1, without that axis."""
        return self.array(name, (*shape, 1)).squeeze(2)


def _targets(case: _Case, batch: int, prompts: int) -> Tensor:
    """Return which prompts each slide has: float32[B, P]."""
    numbers = _known(case.column("prompt", (batch, -1)), prompts, "prompt")
    real = case.column("prompt_mask", (batch, numbers.shape[1])) > 0
    counts = torch.zeros(batch, prompts).scatter_add_(1, numbers, real.float())
    return (counts > 0).float()


def _known(ids: Tensor, count: int, name: str) -> Tensor:
    ids = ids.long()
    if bool(((ids < 0) | (ids >= count)).any()):
        raise InvalidInputError(
            "tokens-unknown",
            f"{name} has ids outside 0…{count - 1}.",
            hint="Use the vocabulary, and the prompts, that the weights were trained with.",
        )
    return ids


def _misfit(name: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        "tensor-shape", f"{name} {what}.", hint="Sizes of the case and of the network have to agree."
    )

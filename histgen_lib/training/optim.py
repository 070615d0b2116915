"""Optimiser, learning-rate schedule and number formats of a training run."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from histgen_lib.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """How weights are optimised. Defaults: as the authors trained HistGen.

    batch_size  examples per step and process
    schedule    "step": learning rate × step_gamma each epoch; "cosine": linear warm-up, then cosine to zero
    precision   "float32", "bfloat16" (autocast) or "float16" (autocast with loss scaling; CUDA)
    """

    optimizer: Literal["adam-amsgrad", "adamw"] = "adam-amsgrad"
    learning_rate: float = 1e-4
    weight_decay: float = 5e-5
    schedule: Literal["step", "cosine"] = "step"
    step_gamma: float = 0.8
    warmup_share: float = 0.0
    gradient_clip: float | None = None
    epochs: int = 40
    batch_size: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


def make_optimizer(model: nn.Module, settings: OptimSettings) -> Optimizer:
    """Make Adam with amsgrad (published), or AdamW without decay of vectors (biases, norms, tokens)."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam-amsgrad":
        return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay, amsgrad=True)
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def make_schedule(optimizer: Optimizer, settings: OptimSettings, steps_per_epoch: int) -> LambdaLR:
    """Make a schedule that is stepped once per batch."""
    total = max(settings.epochs * steps_per_epoch, 1)
    warm = settings.warmup_share * total

    def by_epoch(step: int) -> float:
        return float(settings.step_gamma ** (step // steps_per_epoch))

    def by_cosine(step: int) -> float:
        rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))

    return LambdaLR(optimizer, by_epoch if settings.schedule == "step" else by_cosine)


def autocast(settings: OptimSettings, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for the network's forward pass."""
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if settings.precision == "bfloat16" else torch.float16)


def make_scaler(settings: OptimSettings, device: torch.device) -> torch.amp.GradScaler:
    """Make the loss scaler for float16; it does nothing for the other formats.

    InvalidInputError("training-float16-cpu") for float16 on a CPU.
    """
    half = settings.precision == "float16"
    if half and device.type != "cuda":
        raise InvalidInputError(
            "training-float16-cpu",
            "float16 training needs a CUDA GPU.",
            hint="Use --precision bfloat16 on a CPU.",
        )
    return torch.amp.GradScaler(device.type, enabled=half)

"""Optimiser, learning-rate schedule and number formats, as TrainSettings names them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from histgen_lib.errors import InvalidInputError
from histgen_lib.training.report.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """Adam with amsgrad (published), or AdamW whose decay spares vectors (biases, norms, tokens)."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam-amsgrad":
        return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay, amsgrad=True)
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def make_schedule(optimizer: Optimizer, settings: TrainSettings, steps_per_epoch: int) -> LambdaLR:
    """Make a schedule stepped once a batch: × step_gamma an epoch, or linear warm-up and cosine to zero."""
    total = max(settings.epochs * steps_per_epoch, 1)
    warm = settings.warmup_share * total

    def by_epoch(step: int) -> float:
        return float(settings.step_gamma ** (step // steps_per_epoch))

    def by_cosine(step: int) -> float:
        rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))

    return LambdaLR(optimizer, by_epoch if settings.schedule == "step" else by_cosine)


def autocast(settings: TrainSettings, device: torch.device) -> AbstractContextManager[object]:
    """Open the context in which the network runs forward."""
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if settings.precision == "bfloat16" else torch.float16)


def make_scaler(settings: TrainSettings, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for float16; does nothing for the other formats.

    InvalidInputError("training-float16-cpu") when float16 is asked for on a CPU.
    """
    half = settings.precision == "float16"
    if half and device.type != "cuda":
        raise InvalidInputError(
            "training-float16-cpu",
            "float16 training needs a CUDA GPU.",
            hint="Use --precision bfloat16 on a CPU.",
        )
    return torch.amp.GradScaler(device.type, enabled=half)

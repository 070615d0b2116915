"""A training step of the report model: agreement of its loss with the CPU's, time and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from gpu.bench import Bench, number
from gpu.table import milliseconds
from histgen_lib.models.histgen.network import HistGen


def run(bench: Bench) -> None:
    """Compare the loss of one text, then measure forward, backward and the optimizer's step."""
    size = f"N={number(bench.sizes.usual)}, {bench.sizes.words} words"
    with torch.no_grad():
        expected = _loss(bench.model, *_example(bench, "cpu"))
        found = _loss(copy.deepcopy(bench.model).to(bench.device), *_example(bench, bench.device))
    bench.table.agree("training", "float32: loss", size, abs(float(found.cpu() - expected)), 1e-3)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        step = _step(bench, dtype)
        taken = milliseconds(bench.seconds(step))
        bench.table.figure("training", f"{name}: a step", size, taken)
        bench.table.figure("training", f"{name}: memory of a step", size, bench.peak(step))


def _step(bench: Bench, dtype: torch.dtype) -> Callable[[], None]:
    network = copy.deepcopy(bench.model).to(bench.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    example = _example(bench, bench.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
            loss = _loss(network, *example)
        loss.backward()
        optimizer.step()

    return step


def _example(bench: Bench, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    features, _ = bench.slide(bench.sizes.usual)
    words = np.random.default_rng(0).integers(1, bench.sizes.config.vocab_size, size=bench.sizes.words)
    words[0] = 0
    return torch.from_numpy(features.astype(np.float32))[None].to(device), torch.from_numpy(words)[None].to(
        device
    )


def _loss(network: HistGen, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    log_probs = network(features, mask, ids[:, :-1])
    return functional.nll_loss(log_probs.float().flatten(0, 1), ids[:, 1:].flatten())

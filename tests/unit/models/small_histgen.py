"""A small random HistGen for the model tests."""

from __future__ import annotations

import torch

from histgen_lib.models.histgen import HistGen, HistGenConfig

SIZES = {
    "input_dim": 12,
    "d_model": 16,
    "d_ff": 24,
    "d_vf": 20,
    "num_heads": 4,
    "num_layers": 2,
    "region_size": 5,
    "cmm_size": 10,
    "cmm_dim": 16,
    "topk": 4,
    "prototype_num": 6,
    "vocab_size": 23,
    "max_tokens": 12,
}


def small_model(mode: str, **changes: object) -> HistGen:
    """Random weights, spread enough that outputs differ from slide to slide."""
    torch.manual_seed(7)
    torch.set_num_threads(1)  # at this size threads only wait for each other
    network = HistGen(HistGenConfig.from_json({"mode": mode, **SIZES, **changes}))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return network.eval()

"""A tile encoder by torch: agreement with the CPU's float32, and tiles a second."""

from __future__ import annotations

import copy
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

from gpu.bench import DTYPES, Bench
from histgen_lib.models.tile_encoder.network import TileNetwork
from histgen_lib.models.tile_encoder.registry import new_network
from histgen_lib.models.tile_encoder.torch_runner import TorchTileRunner

COSINES = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.995}
"""How much alike a tile's feature has to be."""
_COMPARED = 8
_TIMED = 1024
"""Tiles encoded for one timing."""


def run(bench: Bench) -> None:
    """Compare and measure one encoder in every number type; then as torch compiles it."""
    if find_spec("timm") is None:
        bench.table.leave_out("tile encoders", "timm is not installed")
        return
    tiles = _tiles(bench, _COMPARED)
    network = random_encoder(bench)
    truth = network(torch.from_numpy(tiles)).numpy()
    for name in DTYPES:
        with bench.attempt("tiles", f"torch {name}"):
            _one_type(bench, network, name, tiles, truth)
    _compiled(bench, network)


def _one_type(bench: Bench, network: TileNetwork, name: str, tiles: np.ndarray, truth: np.ndarray) -> None:
    """Compare and measure one number type."""
    runner = TorchTileRunner(copy.deepcopy(network), bench.device, DTYPES[name])
    found = runner.infer({"tiles": tiles})["features"].astype(np.float32)
    apart = 1.0 - float(_cosines(found, truth).min())
    bench.table.agree("tiles", f"torch {name}: 1 − cosine", f"B={_COMPARED}", apart, 1.0 - COSINES[name])
    for batch in bench.sizes.batches if name != "float32" else bench.sizes.batches[-1:]:
        pixels = _tiles(bench, max(batch, _TIMED if bench.on_gpu else batch))
        parts = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
        taken = bench.seconds(partial(_encode_all, runner, parts), 2)
        _rate(bench, f"torch {name}, from host memory and back", batch, len(pixels) / taken)


@torch.inference_mode()
def _compiled(bench: Bench, network: TileNetwork) -> None:
    if not bench.on_gpu:
        bench.table.leave_out("the tile encoder as torch compiles it", "for GPUs only")
        return
    quick: nn.Module = torch.compile(network.to(bench.device, torch.bfloat16))
    batch = bench.sizes.batches[-1]
    pixels = torch.from_numpy(_tiles(bench, batch)).to(bench.device)
    try:
        taken = bench.seconds(partial(quick, pixels))
        _rate(bench, "torch bfloat16 compiled, on the device", batch, batch / taken)
    except Exception as error:  # it needs a C compiler, and fails in many ways without one
        bench.table.leave_out(
            "the tile encoder as torch compiles it", f"{type(error).__name__}: {error}"[:200]
        )


def _encode_all(runner: TorchTileRunner, parts: list[np.ndarray]) -> None:
    for part in parts:
        runner.infer({"tiles": part})


def random_encoder(bench: Bench) -> TileNetwork:
    torch.manual_seed(0)
    return new_network({"architecture": bench.sizes.encoder}).eval().requires_grad_(False)


def _tiles(bench: Bench, count: int) -> np.ndarray:
    side = bench.sizes.tile_px
    return np.random.default_rng(0).integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)


def _cosines(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (found * truth).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)


def _rate(bench: Bench, what: str, batch: int, rate: float) -> None:
    bench.table.figure("tiles", what, f"B={batch}, {bench.sizes.tile_px} px", f"{rate:,.0f} tiles/s")

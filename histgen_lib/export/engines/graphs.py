"""The graphs that engines are compiled from: one number format each, and the sizes that they have to take."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.export.tile_graph import OPSET, export_tile_encoder
from histgen_lib.files import atomic_path
from histgen_lib.models.engines.record import ENCODER, STEP, TILE_ENCODER, Range
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layout import region_count
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.on_device import BeamStep, DeviceEncoder
from histgen_lib.models.serving import Precision

TILES_A_BATCH = (1, 64, 256)
"""Fewest, usual and most tiles in a batch of the tile encoder."""
TILES_A_SLIDE = (1, 4000, 100_000)
"""Fewest, usual and most tiles of a slide."""
MANY_TILES = 8_192
"""Slides of up to so many tiles have a profile of their own, without kernels and memory for the largest."""
SLIDES_A_STEP = 8
SLIDES_A_CASE = 32
"""Each slide of a case starts a region of its own: so many regions more than the tiles alone would fill."""

Profile = dict[str, Range]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EngineGraph:
    """One network to compile.

    write      exports it in a number format to a file
    profiles   sizes that the engine has to take, each with kernels of its own
    sizes      numbers fixed in the graph, by name
    """

    name: str
    write: Callable[[Path, Precision], Path]
    profiles: tuple[Profile, ...]
    sizes: Mapping[str, int]


_PLACE = 3
"""Where `BeamStep` takes the place of its words."""


class StepGraph(nn.Module):
    """`BeamStep`, which also gives the next place: the loop on the device then feeds itself."""

    def __init__(self, step: BeamStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `BeamStep.forward`; the next place comes last."""
        return (*self.step(*inputs), inputs[_PLACE] + 1)


def tile_encoder_graph(make: Callable[[], nn.Module], tile_px: int) -> EngineGraph:
    """Describe the tile encoder; `make` returns the network anew, for a number format each."""

    def write(path: Path, precision: Precision) -> Path:
        return export_tile_encoder(make(), path, tile_px, precision)

    shapes = _range(*((batch, tile_px, tile_px, 3) for batch in TILES_A_BATCH))
    return EngineGraph(TILE_ENCODER, write, ({"tiles": shapes},), {"tile_px": tile_px})


def encoder_graph(model: HistGen, most_tiles: int = TILES_A_SLIDE[2]) -> EngineGraph:
    """Describe HistGen's encoder, for slides of up to `most_tiles`."""

    def write(path: Path, precision: Precision) -> Path:
        network = DeviceEncoder(model).to(_DTYPES[precision])
        outputs = ["tile_weights", "cross"]
        return _written(path, network, _encoder_example(model.config, precision), _ENCODER_AXES, outputs)

    limits = sorted({min(MANY_TILES, most_tiles), most_tiles})
    profiles = tuple(_encoder_profile(model.config, limit) for limit in limits)
    return EngineGraph(ENCODER, write, profiles, {})


def step_graph(
    model: HistGen, beams: int, max_tokens: int, most_tiles: int = TILES_A_SLIDE[2]
) -> EngineGraph:
    """Describe one step of beam search: one slide has a profile of its own, the other takes up to 8."""

    def write(path: Path, precision: Precision) -> Path:
        network = StepGraph(BeamStep(model, beams, max_tokens)).to(_DTYPES[precision])
        example = _step_example(model.config, beams, max_tokens, precision)
        return _written(path, network, example, _STEP_AXES, list(_STEP_OUTPUTS))

    profiles = tuple(
        _step_profile(model.config, beams, max_tokens, slides, most_tiles)
        for slides in ((1, 1, 1), (1, SLIDES_A_STEP, SLIDES_A_STEP))
    )
    return EngineGraph(STEP, write, profiles, {"beams": beams, "max_tokens": max_tokens})


_ENCODER_AXES = {
    "features": {0: "N"}, "rows": {0: "R"}, "mask": {0: "R"}, "tile_weights": {0: "R"}, "cross": {4: "R"}
}  # fmt: skip
_STEP_OUTPUTS = (
    "next_tokens", "next_parents", "next_scores", "chosen", "attention", "present", "log_probs", "next_place"
)  # fmt: skip
_STEP_AXES = {
    **{name: {0: "S"} for name in ("tokens", "parents", "scores", "next_tokens", "next_parents")},
    **{name: {0: "S"} for name in ("next_scores", "chosen", "log_probs")},
    "past": {2: "S"},
    "present": {2: "S"},
    "cross": {2: "S", 4: "R"},
    "valid": {0: "S", 1: "R"},
    "attention": {0: "S", 2: "R"},
}


def _features_dtype(precision: Precision) -> torch.dtype:
    """Bags hold float16: there is no more to copy to a device that computes in 16 bits anyway."""
    return torch.float32 if precision == "float32" else torch.float16


def _encoder_example(config: HistGenConfig, precision: Precision) -> dict[str, Tensor]:
    return {
        "features": torch.zeros(7, config.input_dim, dtype=_features_dtype(precision)),
        "rows": torch.zeros(3, config.tiles_per_region, dtype=torch.int64),
        "mask": torch.ones(3, config.tiles_per_region, dtype=torch.bool),
        "prototypes": torch.zeros(config.prototype_num, dtype=torch.int64),
    }


def _step_example(
    config: HistGenConfig, beams: int, max_tokens: int, precision: Precision
) -> dict[str, Tensor]:
    heads, width, dtype = config.num_heads, config.d_model // config.num_heads, _DTYPES[precision]
    return {
        "tokens": torch.zeros(2, beams, dtype=torch.int64),
        "parents": torch.arange(beams).repeat(2, 1),
        "scores": torch.zeros(2, beams),
        "place": torch.zeros(1, dtype=torch.int64),
        "past": torch.zeros(config.num_layers, 2, 2, beams, heads, max_tokens, width, dtype=dtype),
        "cross": torch.zeros(config.num_layers, 2, 2, heads, 4, width, dtype=dtype),
        "valid": torch.ones(2, 4, dtype=torch.bool),
    }


def _encoder_profile(config: HistGenConfig, most_tiles: int) -> Profile:
    usual = most_tiles // 2 if most_tiles > MANY_TILES else TILES_A_SLIDE[1]
    tiles = (1, min(usual, most_tiles), most_tiles)
    per_region, prototypes = config.tiles_per_region, (config.prototype_num,)
    by_region = _range(*((count, per_region) for count in _regions(tiles, per_region)))
    return {
        "features": _range(*((count, config.input_dim) for count in tiles)),
        "rows": by_region,
        "mask": by_region,
        "prototypes": (prototypes, prototypes, prototypes),
    }


def _step_profile(
    config: HistGenConfig, beams: int, max_tokens: int, slides: tuple[int, int, int], most_tiles: int
) -> Profile:
    layers, heads, width = config.num_layers, config.num_heads, config.d_model // config.num_heads
    tiles = (1, min(TILES_A_SLIDE[1], most_tiles), most_tiles)
    sizes = list(zip(slides, _regions(tiles, config.tiles_per_region), strict=True))
    by_beam = _range(*((count, beams) for count in slides))
    return {
        "tokens": by_beam,
        "parents": by_beam,
        "scores": by_beam,
        "place": ((1,), (1,), (1,)),
        "past": _range(*((layers, 2, count, beams, heads, max_tokens, width) for count in slides)),
        "cross": _range(*((layers, 2, count, heads, r, width) for count, r in sizes)),
        "valid": _range(*sizes),
    }


def _regions(tiles: tuple[int, int, int], per_region: int) -> tuple[int, int, int]:
    least, usual, most = (region_count(count, per_region) for count in tiles)
    return least, usual, most + SLIDES_A_CASE


def _range(*shapes: tuple[int, ...]) -> Range:
    least, usual, most = shapes
    return least, usual, most


def _written(
    path: Path,
    network: nn.Module,
    inputs: dict[str, Tensor],
    axes: Mapping[str, dict[int, str]],
    outputs: list[str],
) -> Path:
    with atomic_path(path) as written, warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter warns of its successor and of our shape arithmetic.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(written),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: axes[name] for name in (*inputs, *outputs) if name in axes},
            opset_version=OPSET,
            dynamo=False,
        )
    return path

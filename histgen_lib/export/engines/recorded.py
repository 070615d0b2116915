"""Inputs to try an engine on, and what ONNX Runtime computes of them in float32: what the gate compares with.

Inputs are drawn by a fixed generator, so that compiling twice records the same; real ones can be added. They
are rounded to the engine's number format first, so that only its arithmetic is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from histgen_lib.models.engines.gate import Case
from histgen_lib.models.engines.numbers import Array, rounded
from histgen_lib.models.engines.record import TensorFacts
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layout import arrange
from histgen_lib.models.serving import OnnxSession, Session

_TILES = 4
_STEPS_BEFORE = 3
_REAL_TILES = 512

Facts = Mapping[str, TensorFacts]


class Reference:
    """A graph in float32 on ONNX Runtime, for inputs in an engine's number formats (`inputs`)."""

    def __init__(self, onnx: Path, inputs: Sequence[TensorFacts]) -> None:
        self._session: Session = OnnxSession(onnx)
        self._inputs = {one.name: one for one in inputs}

    def record(self, inputs: Mapping[str, Array]) -> Case:
        """Round inputs as the engine takes them, and run them."""
        taken = {name: rounded(inputs[name], facts.dtype) for name, facts in self._inputs.items()}
        return Case(taken, self._session.run({name: _as_float32(value) for name, value in taken.items()}))


def tile_cases(reference: Reference, tile_px: int, real: npt.NDArray[np.uint8] | None = None) -> list[Case]:
    """Record a few tiles: stained textures of different grain, and real ones if they are given."""
    random = np.random.default_rng(0)
    grains = [2**power for power in range(_TILES)]
    tiles = np.stack([_texture(random, tile_px, grain) for grain in grains])
    every = [tiles] if real is None else [tiles, real]
    return [reference.record({"tiles": one}) for one in every]


def encoder_cases(
    reference: Reference, config: HistGenConfig, bag: npt.NDArray[Any] | None = None
) -> list[Case]:
    """Record a single tile, one region and a half, and, if a bag's features are given, its first tiles."""
    random = np.random.default_rng(1)
    counts = (1, config.tiles_per_region * 3 // 2 + 1)
    bags = [random.normal(size=(count, config.input_dim)).astype(np.float32) for count in counts]
    if bag is not None:
        bags.append(bag[:_REAL_TILES].astype(np.float32))
    return [reference.record(encoder_inputs(features, config)) for features in bags]


def encoder_inputs(features: Array, config: HistGenConfig) -> dict[str, Array]:
    """Lay out features [N, D], in the order they have, as the encoder takes them."""
    places = arrange(np.arange(len(features)), config.tiles_per_region, config.prototype_num)
    return {"features": features, **places._asdict()}


def step_cases(reference: Reference, encoded: Sequence[Case], beams: int, max_tokens: int) -> list[Case]:
    """Record the first word of one slide, and a later one of two: as if they were in a search.

    `encoded`: recorded runs of the encoder; what the words attend to is theirs.
    """
    crosses = [case.outputs["cross"] for case in encoded]
    alone = reference.record(_first(crosses[-1:], beams, max_tokens))
    later = reference.record(_first([crosses[0], crosses[-1]], beams, max_tokens))
    for _ in range(min(_STEPS_BEFORE, max_tokens - 1)):
        later = reference.record({**later.inputs, **_continued(later.outputs)})
    return [alone, later]


def _first(crosses: Sequence[Array], beams: int, max_tokens: int) -> dict[str, Array]:
    """Make the inputs of the first step for slides with such encodings [L, 2, 1, h, R, k]."""
    regions = max(cross.shape[4] for cross in crosses)
    layers, _, _, heads, _, width = crosses[0].shape
    slides = len(crosses)
    cross = np.zeros((layers, 2, slides, heads, regions, width), dtype=np.float32)
    valid = np.zeros((slides, regions), dtype=np.bool_)
    for slide, values in enumerate(crosses):
        count = values.shape[4]
        cross[:, :, slide, :, :count], valid[slide, :count] = values[:, :, 0], True
    scores = np.full((slides, beams), -np.inf, dtype=np.float32)
    scores[:, 0] = 0.0
    return {
        "tokens": np.zeros((slides, beams), dtype=np.int64),
        "parents": np.tile(np.arange(beams), (slides, 1)),
        "scores": scores,
        "place": np.zeros(1, dtype=np.int64),
        "past": np.zeros((layers, 2, slides, beams, heads, max_tokens, width), dtype=np.float32),
        "cross": cross,
        "valid": valid,
    }


def _continued(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Turn what a step gives into what the next one takes."""
    names = {name: f"next_{name}" for name in ("tokens", "parents", "scores", "place")}
    return {name: outputs[given] for name, given in (names | {"past": "present"}).items()}


def _texture(random: np.random.Generator, side: int, grain: int) -> npt.NDArray[np.uint8]:
    """Draw a tile uint8[side, side, 3] in the colours of a stain, its spots `grain` px wide."""
    coarse = random.normal(size=(-(-side // grain), -(-side // grain), 3)).astype(np.float32)
    spots = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    stain = np.array([200.0, 140.0, 190.0], dtype=np.float32)
    return np.asarray((stain + 35.0 * spots).clip(0, 255).astype(np.uint8))


def _as_float32(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype == np.float16 else values

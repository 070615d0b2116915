"""From stain to colour: a slide's own stain vectors, background and noise, as one lookup table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.synth.textures import Plane

HAEMATOXYLIN = np.array([0.72, 0.80, 0.42])
EOSIN = np.array([0.10, 0.62, 0.34])
"""Optical density (R, G, B) of a stain plane at 255, for an average slide."""

RED_CELLS = 236
"""Eosin from here on is red cells, which are more orange than any eosin."""


@dataclass(frozen=True)
class Stain:
    """One slide's colours: `table` maps haematoxylin * 256 + eosin to RGB; `noise` is int8 [256, 256, 3]."""

    table: NDArray[np.uint8]
    noise: NDArray[np.int16]

    @property
    def background(self) -> NDArray[np.uint8]:
        """RGB of bare glass."""
        return np.asarray(self.table[0])


def draw_stain(rng: np.random.Generator, artefacts: tuple[str, ...]) -> Stain:
    """Draw a slide's stain, mildly off the average."""
    haematoxylin = HAEMATOXYLIN * rng.uniform(0.88, 1.2) * (1 + 0.06 * rng.standard_normal(3))
    eosin = EOSIN * rng.uniform(0.85, 1.22) * (1 + 0.08 * rng.standard_normal(3))
    gamma = rng.uniform(0.92, 1.1)
    glass = np.array([244.0, 243, 244]) + rng.uniform(-4, 4) + rng.uniform(-2, 2, 3)
    if "grey background" in artefacts:
        glass = glass - rng.uniform(14, 26)
    if "yellow background" in artefacts:
        glass = glass - np.array([4, 8, 26]) * rng.uniform(0.7, 1.1)
    h = np.arange(256)[:, None, None] / 255
    e = np.arange(256)[None, :, None] / 255
    density = (h**gamma) * haematoxylin * 1.25 + (e**gamma) * eosin
    density[:, RED_CELLS:] += np.array([0.02, -0.05, 0.20])
    table = np.clip(glass * 10.0**-density, 0, 255).astype(np.uint8).reshape(-1, 3)
    noise = np.round(rng.normal(0, rng.uniform(0.8, 2.0), (256, 256, 3))).astype(np.int16)
    return Stain(table, noise)


def colour(h: Plane, e: Plane, stain: Stain) -> NDArray[np.uint8]:
    """Return RGB [h, w, 3] of two stain planes, without noise."""
    index = h.astype(np.uint16)
    index <<= 8
    index |= e
    return np.asarray(np.take(stain.table, index, axis=0))

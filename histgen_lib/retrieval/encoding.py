"""Slides, regions and words as vectors: what goes into the case index, and what it is asked with."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import InferenceServer
from histgen_lib.retrieval._port import Floats, Vectors

IMAGE, TEXT = "fgcr_image", "fgcr_text"
"""The networks, as a server calls them; `histgen_lib.models.fgcr.serving` says what their tensors hold."""

Box = tuple[int, int, int, int]
"""x, y, width, height in level-0 px."""


class Vocabulary(Protocol):
    """Turns text into the numbers that the text network reads: `histgen_lib.models.fgcr.words.Words`."""

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Return int32[T], T >= 1, cut at what the network reads."""
        ...


def encode_bag(server: InferenceServer, bag: Bag, box: Box | None = None) -> Vectors:
    """Return the vectors of a slide, or of the tiles alone whose squares overlap `box`.

    A box that sticks out of the slide counts as far as it lies within. Raises
    InvalidInputError("query-region-outside") for one that has no area within the slide, and
    ("query-region-empty") if no tile of tissue is there; otherwise as `InferenceServer.infer`.
    """
    rows = slice(None) if box is None else _rows_within(bag, box)
    tensors: dict[str, npt.NDArray[Any]] = {"features": bag.features[rows], "xy": bag.xy[rows]}
    if bag.has_places:
        tensors["span_px"] = np.array([bag.span_px], np.float32)
    answer = server.infer(IMAGE, tensors)
    return Vectors(answer["slide"], answer["regions"], answer["boxes"])


def encode_text(server: InferenceServer, words: Vocabulary, text: str) -> Floats:
    """Return float32[d], the vector of a report or a sentence. Raises as `InferenceServer.infer`."""
    vector: Floats = server.infer(TEXT, {"tokens": words.encode(text)})["vector"]
    return vector


def _rows_within(bag: Bag, box: Box) -> npt.NDArray[np.intp]:
    x, y, width, height = box
    slide_width, slide_height = bag.known_size or (math.inf, math.inf)
    if width <= 0 or height <= 0 or x >= slide_width or y >= slide_height or min(x + width, y + height) <= 0:
        raise InvalidInputError(
            "query-region-outside",
            f"The region has no area within the slide{_size_of(bag)}.",
            hint="Give x,y,width,height in pixels of the slide's full resolution.",
        )
    low, high = np.array([x, y]) - (bag.span_px if bag.has_places else 0), np.array([x + width, y + height])
    rows = np.flatnonzero(((bag.xy > low) & (bag.xy < high)).all(axis=1)) if bag.has_places else np.array([])
    if not len(rows):
        raise InvalidInputError(
            "query-region-empty",
            "No tile of tissue of the slide lies in the region.",
            hint="Choose a region that holds tissue.",
        )
    return rows


def _size_of(bag: Bag) -> str:
    size = bag.known_size
    return f", which is {size[0]} x {size[1]} px" if size else ""

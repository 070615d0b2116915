"""Slides, their regions and their reports as vectors of a trained network, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.models.fgcr.batches import slides_of, texts_of
from histgen_lib.models.fgcr.network import Fgcr, Slides, Texts
from histgen_lib.models.fgcr.words import Words
from histgen_lib.training.retrieval.data import Seen, places_of, seen_of

_AT_ONCE = 64
Floats = NDArray[np.float32]
Boxes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Embedded:
    """Unit vectors: `slides` and `texts` float32[n, d], and of each slide `regions` float32[R_i, d].

    `boxes` int32[R_i, 4]: x, y, width and height of the regions in level-0 px.
    """

    slides: Floats
    texts: Floats
    regions: list[Floats] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Embedder:
    """Embeds with a network in evaluation mode, on the network's device."""

    network: Fgcr
    words: Words

    def cases(self, bags: Sequence[Bag], reports: Sequence[str]) -> Embedded:
        """Embed slides and their reports."""
        slides, regions, boxes = self.slides(bags)
        return Embedded(slides, self.texts(reports), regions, boxes)

    def slides(self, bags: Sequence[Bag]) -> tuple[Floats, list[Floats], list[Boxes]]:
        """Embed slides: their vectors, those of their regions, and the regions' boxes."""
        seen = [seen_of(bag, self.network.config) for bag in bags]
        vectors, regions = embed_slides(self.network, seen)
        return vectors, regions, [found.boxes for _, found in seen]

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32[n, d]."""
        return embed_texts(self.network, [self.words.encode(text) for text in texts])

    def boxes(
        self, bags: Sequence[Bag], boxes: Sequence[NDArray[np.int32]]
    ) -> tuple[list[Floats], list[Boxes]]:
        """Embed one box of each slide, x, y, width, height in level-0 px: its regions, and their boxes.

        A tile belongs to a box if its middle lies in it; a box without any is the nearest tile.
        """
        _, regions, found = self.slides([within(bag, box) for bag, box in zip(bags, boxes, strict=True)])
        return regions, found


def within(bag: Bag, box: NDArray[np.int32]) -> Bag:
    """Return the part of a bag that lies in a box, x, y, width, height in level-0 px; at least one tile."""
    xy, span_px = places_of(bag)
    middles = xy + span_px / 2
    inside = np.flatnonzero(((middles >= box[:2]) & (middles < box[:2] + box[2:])).all(axis=1))
    if not len(inside):
        inside = np.square(middles - (box[:2] + box[2:] / 2)).sum(axis=1).argmin(keepdims=True)
    return replace(bag, features=bag.features[inside], xy=bag.xy[inside])


def embed_slides(network: Fgcr, seen: Sequence[Seen]) -> tuple[Floats, list[Floats]]:
    """Return the vectors of slides float32[n, d], and those of each one's regions float32[R_i, d]."""
    slides, regions = [], []
    with torch.inference_mode():
        for start in range(0, len(seen), _AT_ONCE):
            batch = slides_of(seen[start : start + _AT_ONCE])
            found = network.see(Slides(*(part.to(network.whole_token.device) for part in batch)))
            slides.append(found.vector.float().cpu().numpy())
            counts = batch.anchor_mask.sum(dim=1).tolist()
            regions += [
                one[:count].float().cpu().numpy() for one, count in zip(found.regions, counts, strict=True)
            ]
    return np.concatenate(slides), regions


def embed_texts(network: Fgcr, encoded: Sequence[NDArray[np.int32]]) -> Floats:
    """Return the vectors of texts float32[n, d]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(encoded), _AT_ONCE):
            batch = texts_of(encoded[start : start + _AT_ONCE])
            texts = Texts(*(part.to(network.whole_token.device) for part in batch))
            found.append(network.read(texts).vector.float().cpu().numpy())
    return np.concatenate(found)

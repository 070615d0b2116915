"""Slides, their regions and their reports as vectors of a trained network, many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.models.fgcr.batches import slides_of, texts_of
from histgen_lib.models.fgcr.network import Fgcr, Slides, Texts
from histgen_lib.models.fgcr.words import Words
from histgen_lib.training.retrieval.data import Seen, places_of, seen_of

_AT_ONCE = 64
_MOST_TILES = 1 << 16
"""Tiles of the slides that are embedded at once, with padding, unless a single one has more."""
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

    def cases(self, bags: Iterable[Bag], reports: Sequence[str]) -> Embedded:
        """Embed slides and their reports."""
        slides, regions, boxes = self.slides(bags)
        return Embedded(slides, self.texts(reports), regions, boxes)

    def slides(self, bags: Iterable[Bag]) -> tuple[Floats, list[Floats], list[Boxes]]:
        """Embed slides: their vectors, those of their regions, and the regions' boxes."""
        boxes: list[Boxes] = []

        def seen() -> Iterator[Seen]:
            for bag in bags:
                features, regions = seen_of(bag, self.network.config)
                boxes.append(regions.boxes)
                yield features, regions

        return *embed_slides(self.network, seen()), boxes

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32[n, d]."""
        return embed_texts(self.network, [self.words.encode(text) for text in texts])

    def boxes(
        self, bags: Iterable[Bag], boxes: Sequence[NDArray[np.int32]]
    ) -> tuple[list[Floats], list[Boxes]]:
        """Embed one box of each slide, x, y, width, height in level-0 px: its regions, and their boxes.

        A tile belongs to a box if its middle lies in it; a box without any is the nearest tile.
        """
        _, regions, found = self.slides(within(bag, box) for bag, box in zip(bags, boxes, strict=True))
        return regions, found


def within(bag: Bag, box: NDArray[np.int32]) -> Bag:
    """Return the part of a bag that lies in a box, x, y, width, height in level-0 px; at least one tile."""
    xy, span_px = places_of(bag)
    middles = xy + span_px / 2
    inside = np.flatnonzero(((middles >= box[:2]) & (middles < box[:2] + box[2:])).all(axis=1))
    if not len(inside):
        inside = np.square(middles - (box[:2] + box[2:] / 2)).sum(axis=1).argmin(keepdims=True)
    return replace(bag, features=bag.features[inside], xy=bag.xy[inside])


def embed_slides(network: Fgcr, seen: Iterable[Seen]) -> tuple[Floats, list[Floats]]:
    """Return the vectors of slides float32[n, d], and those of each one's regions float32[R_i, d].

    Slides are taken as they are needed, so that few are in memory.
    """
    found = list(map(partial(_embedded, network), _at_once(seen)))
    return np.concatenate([slides for slides, _ in found]), [one for _, regions in found for one in regions]


def _embedded(network: Fgcr, some: Sequence[Seen]) -> tuple[Floats, list[Floats]]:
    batch = slides_of(some)
    with torch.inference_mode():
        found = network.see(Slides(*(part.to(network.whole_token.device) for part in batch)))
    regions = found.regions.float().cpu().numpy()
    counts = batch.anchor_mask.sum(dim=1).tolist()
    return found.vector.float().cpu().numpy(), [
        one[:count].copy() for one, count in zip(regions, counts, strict=True)
    ]


def _at_once(seen: Iterable[Seen]) -> Iterator[list[Seen]]:
    """Put slides together that are embedded at once."""
    some: list[Seen] = []
    longest = 0
    for one in seen:
        longest = max(longest, len(one[0]))
        if some and (len(some) == _AT_ONCE or (len(some) + 1) * longest > _MOST_TILES):
            yield some
            some, longest = [], len(one[0])
        some.append(one)
    if some:
        yield some


def embed_texts(network: Fgcr, encoded: Sequence[NDArray[np.int32]]) -> Floats:
    """Return the vectors of texts float32[n, d]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(encoded), _AT_ONCE):
            batch = texts_of(encoded[start : start + _AT_ONCE])
            texts = Texts(*(part.to(network.whole_token.device) for part in batch))
            found.append(network.read(texts).vector.float().cpu().numpy())
    return np.concatenate(found)

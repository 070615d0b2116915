"""Which lines of a draft any region of its slides supports: a check that never changes the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from histgen_lib.bags import Bag
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.consistency import Consistency
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.reports.record import Region, Sentence, SentenceSupport
from histgen_lib.retrieval import Floats, Vectors
from histgen_lib.retrieval.encoding import encode_bag, encode_text


@dataclass(frozen=True, eq=False)
class Seen:
    """A slide as the retrieval network sees it."""

    slide_id: str
    vectors: Vectors

    def regions(self) -> list[Region]:
        """Return its regions, in the order of their vectors."""
        return [region_of(box) for box in self.vectors.boxes]


def region_of(box: Sequence[int]) -> Region:
    """Return x, y, width and height, level-0 px, as the record has them."""
    x, y, width, height = map(int, box)
    return Region(x=x, y=y, width=max(1, width), height=max(1, height))


def see(model: ReportModel, server: InferenceServer, bags: Sequence[Bag]) -> tuple[Seen, ...]:
    """Return what the retrieval network sees of each slide, in order.

    Nothing if the model has no such network, or if a bag does not say where its tiles lie. Raises what the
    server raises.
    """
    if not model.folder.retrieval or not all(bag.has_places for bag in bags):
        return ()
    return tuple(Seen(bag.slide_id, encode_bag(server, bag)) for bag in bags)


def check_sentences(
    sentences: Sequence[Sentence],
    seen: Sequence[Seen],
    model: ReportModel,
    server: InferenceServer,
    *,
    named: bool = False,
) -> tuple[Sentence, ...]:
    """Add to each line whether a region of the slides supports it, as far as that can be checked.

    With `named` each says which slide the region lies on. Raises what the server raises.
    """
    if not seen or not any(model.consistency.figures_of(one.text) for one in sentences):
        return tuple(sentences)
    from histgen_lib.models.fgcr.words import load_words

    check = _Check(model.consistency, tuple(_places(seen)), np.concatenate([s.vectors.regions for s in seen]))
    words = load_words(model.folder)

    def checked(one: Sentence) -> Sentence:
        if model.consistency.figures_of(one.text) is None:
            return one
        vector = encode_text(server, words, one.text)
        return one.model_copy(update={"support": check.support(one.text, vector, named=named)})

    return tuple(map(checked, sentences))


def _places(seen: Sequence[Seen]) -> Iterator[tuple[str, Region]]:
    for slide in seen:
        yield from ((slide.slide_id, region) for region in slide.regions())


@dataclass(frozen=True, eq=False)
class _Check:
    """The regions of all slides, [R, d], and where each lies: slide id and place."""

    consistency: Consistency
    places: tuple[tuple[str, Region], ...]
    regions: Floats

    def support(self, line: str, vector: Floats, *, named: bool) -> SentenceSupport | None:
        """Judge a line by the region that is most like it; the first of several."""
        cosines = self.regions @ vector
        best = int(np.argmax(cosines))
        slide_id, region = self.places[best]
        return self.consistency.judge(line, float(cosines[best]), region, slide_id if named else None)

"""HistGen on engines: a `ReportEngine` whose encoder and decoder never leave the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import numpy as np

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.engines.device import Mark
from histgen_lib.models.engines.numbers import Array, stored
from histgen_lib.models.engines.session import Engine, EngineSession
from histgen_lib.models.engines.steps import StepLoop
from histgen_lib.models.histgen.batches import Bag
from histgen_lib.models.histgen.decoding import (
    Continuations,
    Decoded,
    DecodingSettings,
    Floats,
    Ints,
    Step,
    decode,
    follow,
)
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.serving import Written

_AHEAD = 4
"""Steps that are started before the host looks at those before them: enough that the device never waits."""
_LEAST_REGIONS = 16
_LOOPS_KEPT = 8


class EngineReports:
    """A `BatchEngine` over the engines of the encoder and of the step. Safe to use from several threads."""

    def __init__(self, encoder: EngineSession, step: Engine) -> None:
        self._encoder, self._loops = encoder, _Loops(step)
        self._beams, self._max_tokens = step.record.sizes["beams"], step.record.sizes["max_tokens"]

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> Written:
        """See `ReportEngine.write`; raises also InvalidInputError("engine-size"), and MemoryError."""
        return self.write_many([(features, places)], settings)[0]

    def write_many(self, bags: Sequence[Bag], settings: DecodingSettings) -> list[Written]:
        """See `BatchEngine.write_many`; raises as `write`."""
        self._check(settings)
        self._check_sizes(bags)
        most = self._loops.most_slides
        groups = [bags[start : start + most] for start in range(0, len(bags), most)]
        return [written for group in groups for written in self._with_room(group, settings)]

    def _with_room(self, bags: Sequence[Bag], settings: DecodingSettings) -> list[Written]:
        try:
            return self._together(bags, settings)
        except MemoryError:  # perhaps loops of other sizes have it
            self._loops.keep(0)
            return self._together(bags, settings)

    def _together(self, bags: Sequence[Bag], settings: DecodingSettings) -> list[Written]:
        regions = [len(places.mask) for _, places in bags]
        with self._loops.lent(len(bags), max(regions)) as loop:
            weights = [self._encode(*bag, loop, row) for row, bag in enumerate(bags)]
            texts = self._search(loop, regions, settings)
        return [Written(text, rows) for text, rows in zip(texts, weights, strict=True)]

    def _check(self, settings: DecodingSettings) -> None:
        beams = settings.beam_size if settings.method == "beam" else 1
        if beams > self._beams or settings.max_tokens > self._max_tokens:
            raise InvalidInputError(
                "decoding-settings",
                f"The model was compiled for at most {self._beams} beams and {self._max_tokens} words; "
                f"this asks for {beams} and {settings.max_tokens}.",
                hint="Ask for less, or compile it again with --beams and --max-tokens.",
            )

    def _check_sizes(self, bags: Sequence[Bag]) -> None:
        largest = self._encoder.engine.record.profiles[-1]
        (_, _, (most_tiles, _)), (_, _, (most_regions, _)) = largest["features"], largest["mask"]
        for features, places in bags:
            if len(features) > most_tiles or len(places.mask) > most_regions:
                raise InvalidInputError(
                    "engine-size",
                    f"The model was compiled for slides of at most {most_tiles} tiles in {most_regions} "
                    f"regions; this one has {len(features)} in {len(places.mask)}.",
                    hint="Compile it for larger slides: `histgen compile --tiles`.",
                )

    def _encode(self, features: Features, places: Arrangement, loop: StepLoop, row: int) -> Floats:
        """Encode a slide into a row of the loop; return its tile weights float32[R, P]."""
        engine = self._encoder.engine
        given = {"features": features, **places._asdict()}
        arrays: dict[str, Array] = {
            name: stored(given[name], facts.dtype) for name, facts in engine.inputs.items()
        }
        narrower = arrays["features"].itemsize < features.itemsize
        if narrower and not np.isfinite(arrays["features"]).all():
            raise _too_large("Some tile features do")
        with self._encoder.lane() as lane:
            context = lane.prepare({name: array.shape for name, array in arrays.items()})
            for name, array in arrays.items():
                lane.send(name, array, context.get_tensor_address(name))
            lane.start(context)
            facts, shape = engine.outputs["tile_weights"], places.mask.shape
            found = lane.fetch({"tile_weights": (context.get_tensor_address("tile_weights"), facts, shape)})
            if np.isnan(found["tile_weights"]).any():  # a search over such a slide would go anywhere
                raise _too_large("What the encoder computes of this slide does")
            loop.load(row, context.get_tensor_address("cross"), len(places.mask))
        return found["tile_weights"]

    def _search(self, loop: StepLoop, regions: list[int], settings: DecodingSettings) -> list[Decoded]:
        if settings.method == "beam" and settings.beam_size == self._beams:
            return follow(LoopSearch(loop, regions), settings)
        texts = decode(LoopStepper(loop), settings)
        of_slides = zip(texts, regions, strict=True)
        return [replace(text, attention=text.attention[:, :own]) for text, own in of_slides]


class LoopSearch:
    """A `BeamEngine` over a loop with its slides in it; `regions` counts those of each slide."""

    def __init__(self, loop: StepLoop, regions: Sequence[int]) -> None:
        self._loop, self._regions = loop, regions

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return len(self._regions)

    def search(self, beams: int, max_tokens: int) -> Iterator[Continuations]:
        """See `BeamEngine.search`; `beams` are those that the step was compiled for."""
        assert beams == self._loop.beams
        self._loop.begin()
        under_way: deque[tuple[Mark, range]] = deque()
        for start in range(0, max_tokens, _AHEAD):
            rounds = range(start, min(start + _AHEAD, max_tokens))
            for _ in rounds:
                self._loop.advance()
            under_way.append((self._loop.mark(), rounds))
            if len(under_way) > 1:
                yield from self._done(*under_way.popleft())
        yield from self._done(*under_way.popleft())

    def looked(self, beams: Sequence[Ints]) -> list[Floats]:
        """See `BeamEngine.looked`."""
        longest = max(map(len, beams))
        history = self._loop.looked(longest)
        return [
            history[np.arange(len(numbers)), slide, numbers, :regions]
            for slide, (numbers, regions) in enumerate(zip(beams, self._regions, strict=True))
        ]

    def _done(self, mark: Mark, rounds: range) -> Iterator[Continuations]:
        mark.wait()
        return map(self._loop.continuations, rounds)


class LoopCache(NamedTuple):
    """Which slides of the loop are followed, int64[S], and of each the beams to go on with, int64[S, B]."""

    slides: Ints
    beams: Ints


class LoopStepper:
    """A `Stepper` over a loop, for searches that the host does: greedy, sampling, fewer beams.

    The loop always runs all its slides and beams; those that nobody asks for repeat word 0.
    """

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return self._loop.slides

    def start(self) -> LoopCache:
        """See `Stepper.start`."""
        self._loop.begin()
        every = np.arange(self.slides)
        return LoopCache(every, np.zeros((self.slides, 1), dtype=np.int64))

    def step(self, tokens: Ints, cache: LoopCache) -> Step[LoopCache]:
        """See `Stepper.step`."""
        beams = tokens.shape[1]
        words, parents = (np.zeros((self.slides, self._loop.beams), dtype=np.int64) for _ in range(2))
        words[cache.slides, :beams], parents[cache.slides, :beams] = tokens, cache.beams
        self._loop.feed(words, parents)
        self._loop.advance()
        found = self._loop.last("log_probs", "attention")
        log_probs, attention = (values[cache.slides, :beams] for values in found.values())
        every = np.tile(np.arange(beams), (len(cache.slides), 1))
        return Step(log_probs, attention, cache._replace(beams=every))

    def select(self, cache: LoopCache, slides: Ints, beams: Ints) -> LoopCache:
        """See `Stepper.select`."""
        return LoopCache(cache.slides[slides], cache.beams[slides[:, None], beams])


class _Loops:
    """Loops by their size, each lent to one batch at a time; the latest used ones are kept."""

    def __init__(self, step: Engine) -> None:
        self._step, self._idle, self._lock = step, list[StepLoop](), Lock()
        _, _, (self.most_slides, self._most_regions) = step.record.profiles[-1]["valid"]

    @contextmanager
    def lent(self, slides: int, regions: int) -> Iterator[StepLoop]:
        """Lend a loop for so many slides of up to so many regions."""
        loop = self._take(slides, self._rounded(regions))
        try:
            yield loop
        finally:
            self._put(loop)

    def _take(self, slides: int, regions: int) -> StepLoop:
        with self._lock:
            for loop in reversed(self._idle):
                if (loop.slides, loop.regions) == (slides, regions):
                    self._idle.remove(loop)
                    return loop
        return StepLoop(self._step, slides, regions)

    def _put(self, loop: StepLoop) -> None:
        with self._lock:
            self._idle.append(loop)
        self.keep(_LOOPS_KEPT)

    def keep(self, count: int) -> None:
        """Close the idle loops that were used longest ago."""
        with self._lock:
            spare = self._idle[: max(len(self._idle) - count, 0)]
            del self._idle[: len(spare)]
        for loop in spare:
            loop.close()

    def _rounded(self, regions: int) -> int:
        """Round up to a power of two, within what the step takes: few sizes, so that loops are used again."""
        rounded = max(1 << (regions - 1).bit_length(), _LEAST_REGIONS)
        return min(rounded, max(self._most_regions, regions))


def _too_large(what: str) -> InvalidInputError:
    return InvalidInputError(
        "bag-not-finite",
        f"{what} not fit into the model's number format.",
        hint="Encode the slide again, or compile the model in bfloat16 or float32.",
    )

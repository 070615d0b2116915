"""Beam search by torch on a device: buffers of fixed size, one launch a step, ahead of the host."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from histgen_lib.models.captured import captured, size_class
from histgen_lib.models.histgen.decoding import Continuations, Floats, Ints, Step
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.on_device import BeamStep, Words, WordTable

_AHEAD = 4
"""Steps launched at once on a GPU. While the host follows them the next are under way: at the end up to twice
as many are for nothing, which is the price of never waiting."""

_PLACES = 16
"""The cache's length is a multiple of this, which suits the kernels of matrix products."""

_LEAST_REGIONS = 32
"""Classes of region counts from here on are multiples of 16, too."""

_KEPT_BYTES, _KEPT_SEARCHES = 2 << 30, 32
"""Buffers of searches, and searches (each a graph), that are kept for the next of their size."""

_TABLE_BYTES = 512 << 20
"""Largest table of embedded words; beyond it they are computed at each step."""

_KEPT_STEPS = 4
"""Networks for a step that are kept, a copy of the decoder's weights each: requests ask for any beams."""


class Size(NamedTuple):
    """Slides, regions of each, beams of each, places for words."""

    slides: int
    regions: int
    beams: int
    places: int


class Search:
    """A `BeamEngine` over buffers of one size. Slides are loaded into it; spare rows compute for nothing.

    `ahead`: steps launched at once, of which the next are under way while the host follows; 0: one by one.
    """

    def __init__(self, step: BeamStep, size: Size, pool: Any = None, ahead: int = 0) -> None:
        self.size, self._step, self._ahead = size, step, ahead
        self._device = step.logit.weight.device
        c, (slides, regions, beams, places) = step.config, size
        new = partial(torch.zeros, device=self._device)
        half = partial(new, dtype=step.logit.weight.dtype)
        heads, width = c.num_heads, c.d_model // c.num_heads
        self._tokens = new(slides, beams, dtype=torch.int64)
        self._parents = torch.zeros_like(self._tokens)
        self._scores = new(slides, beams)
        self._place = new(1, dtype=torch.int64)
        self._past = half(c.num_layers, 2, slides, beams, heads, places, width)
        self._cross = half(c.num_layers, 2, slides, heads, regions, width)
        self._valid = new(slides, regions, dtype=torch.bool)
        self._log_probs = new(slides, 1, c.vocab_size + 1)
        self._looked = new(places, slides, beams, regions)
        self._record = tuple(
            new(places, slides, beams, dtype=kind) for kind in (torch.int64, torch.int64, torch.float32)
        )
        pinned = self._device.type == "cuda"
        self._read = tuple(
            torch.zeros(kept.shape, dtype=kept.dtype, pin_memory=pinned) for kept in self._record
        )
        self._regions: list[int] = []
        self.load([self._cross[:, :, :1]])
        self._advance = captured(self._work, self._device, pool)

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return len(self._regions)

    def nbytes(self) -> int:
        """Return the bytes of its largest buffers."""
        return sum(one.nbytes for one in (self._past, self._cross, self._looked, self._log_probs))

    def load(self, crosses: Sequence[Tensor]) -> None:
        """Take encoded slides: cross [L, 2, 1, h, R, k] each; and start anew."""
        self._regions = [cross.shape[-2] for cross in crosses]
        self._cross.zero_()  # masked numbers count for nothing only if they are numbers
        self._valid.zero_()
        self._valid[:, 0] = True  # a softmax over nothing would be NaN
        for row, (cross, regions) in enumerate(zip(crosses, self._regions, strict=True)):
            self._cross[:, :, row, :, :regions] = cross[:, :, 0]
            self._valid[row, :regions] = True
        self.rewind()

    def rewind(self) -> None:
        """Go back to the first word."""
        self._past.zero_()
        self._tokens.zero_()
        self._parents.copy_(torch.arange(self.size.beams, device=self._device).expand_as(self._parents))
        self._scores.fill_(-torch.inf)
        self._scores[:, 0].zero_()
        self._place.zero_()

    def search(self, beams: int, max_tokens: int) -> Iterator[Continuations]:
        """See `BeamEngine.search`; `beams` is that of the size, `max_tokens` within its places."""
        assert beams == self.size.beams
        self.rewind()
        launched: deque[_Launch] = deque()
        for first in range(0, max_tokens, self._ahead or 1):
            launched.append(self._launch(first, min(first + (self._ahead or 1), max_tokens)))
            if len(launched) > bool(self._ahead):
                yield from self._rounds(launched.popleft())
        for launch in launched:
            yield from self._rounds(launch)

    def looked(self, beams: Sequence[Ints]) -> list[Floats]:
        """See `BeamEngine.looked`."""
        found = []
        for slide, (numbers, regions) in enumerate(zip(beams, self._regions, strict=True)):
            places = torch.arange(len(numbers), device=self._device)
            fed = torch.from_numpy(numbers).to(self._device)
            found.append(self._looked[places, slide, fed, :regions].cpu().numpy())
        return found

    def feed(self, place: int, tokens: Ints, rows: Ints) -> tuple[Floats, Floats]:
        """Feed words int64[S', 1] to slides int64[S']: log-probs [S', 1, V+1], attention [S', 1, R]."""
        at = torch.from_numpy(rows).to(self._device)
        self._tokens[at] = torch.from_numpy(tokens).to(self._device)
        self._advance()
        regions = max(self._regions)
        return self._log_probs[at].cpu().numpy(), self._looked[place, at, :, :regions].cpu().numpy()

    def _work(self) -> None:
        """Make one step from the buffers to the buffers, and record what was chosen."""
        tokens, parents, scores, chosen, looked, present, log_probs = self._step(
            self._tokens, self._parents, self._scores, self._place, self._past, self._cross, self._valid
        )
        for record, values in zip(self._record, (tokens, parents, chosen), strict=True):
            record.index_copy_(0, self._place, values[None])
        self._looked.index_copy_(0, self._place, looked[None])
        self._tokens.copy_(tokens)
        self._parents.copy_(parents)
        self._scores.copy_(scores)
        self._past.copy_(present)
        if self.size.beams == 1:  # for methods that choose on the host
            self._log_probs.copy_(log_probs)
        self._place.add_(1)

    def _launch(self, first: int, last: int) -> _Launch:
        for _ in range(first, last):
            self._advance()
        for record, read in zip(self._record, self._read, strict=True):
            read[first:last].copy_(record[first:last], non_blocking=True)
        if self._device.type != "cuda":
            return _Launch(first, last, None)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Launch(first, last, done)

    def _rounds(self, launch: _Launch) -> Iterator[Continuations]:
        if launch.done is not None:
            launch.done.synchronize()
        tokens, parents, chosen = (read.numpy()[:, : self.slides] for read in self._read)
        for place in range(launch.first, launch.last):
            yield Continuations(tokens[place], parents[place], chosen[place])


class _Launch(NamedTuple):
    """Steps of places first…last−1, and what happens on the device once their results are in host memory."""

    first: int
    last: int
    done: torch.cuda.Event | None


class OneBeam:
    """A `Stepper` over a search with one beam a slide, for methods that choose on the host.

    Its cache is which slides are still of interest, and how many words they have had.
    """

    def __init__(self, search: Search) -> None:
        assert search.size.beams == 1
        self._search = search
        self.slides = search.slides

    def start(self) -> tuple[int, Ints]:
        """Make the cache before the first token."""
        self._search.rewind()
        return 0, np.arange(self.slides)

    def step(self, tokens: Ints, cache: tuple[int, Ints]) -> Step[tuple[int, Ints]]:
        """Feed tokens int64[S, 1]."""
        place, rows = cache
        return Step(*self._search.feed(place, tokens, rows), (place + 1, rows))

    def select(self, cache: tuple[int, Ints], slides: Ints, beams: Ints) -> tuple[int, Ints]:
        """Keep these slides; their one beam is beam 0."""
        assert not beams.any()
        return cache[0], cache[1][slides]


class Searches:
    """Makes searches of the sizes that come up, and keeps those of the last few."""

    def __init__(self, model: HistGen, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype
        self._steps: OrderedDict[tuple[int, int], BeamStep] = OrderedDict()
        self._words: dict[int, Words | WordTable] = {}
        self._kept: OrderedDict[Size, Search] = OrderedDict()
        on_gpu = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._tables, self._ahead = on_gpu, _AHEAD if on_gpu else 0

    def load(self, crosses: Sequence[Tensor], beams: int, max_tokens: int) -> Search:
        """Return a search for encoded slides, cross [L, 2, 1, h, R, k] each."""
        places = -(-max(max_tokens, self._model.config.max_tokens) // _PLACES) * _PLACES
        regions = size_class(max(cross.shape[-2] for cross in crosses), _LEAST_REGIONS)
        size = Size(1 << (len(crosses) - 1).bit_length(), regions, beams, places)
        search = self._kept.pop(size, None) or self._new(size)
        self._kept[size] = search
        while len(self._kept) > 1 and self._too_many():
            self._kept.popitem(last=False)
        search.load(crosses)
        return search

    def _too_many(self) -> bool:
        held = sum(one.nbytes() for one in self._kept.values())
        return held > _KEPT_BYTES or len(self._kept) > _KEPT_SEARCHES

    def _new(self, size: Size) -> Search:
        return Search(self._step(size.beams, size.places), size, self._pool, self._ahead)

    def _step(self, beams: int, places: int) -> BeamStep:
        step = self._steps.pop((beams, places), None)
        if step is None:
            words = self._words_at(places)
            step = BeamStep(self._model, beams, places, words).to(self._device, self._dtype).eval()
        self._steps[beams, places] = step
        while len(self._steps) > _KEPT_STEPS:
            self._steps.popitem(last=False)
        return step

    def _words_at(self, places: int) -> Words | WordTable:
        """Return the embedded words, which steps of any number of beams share; the last are kept."""
        if places not in self._words:
            words = Words(self._model, places).to(self._device, self._dtype)
            rows = (self._model.config.vocab_size + 1) * places
            fits = rows * self._model.config.d_model * self._dtype.itemsize <= _TABLE_BYTES
            self._words = {places: WordTable(words) if self._tables and fits else words}
        return self._words[places]

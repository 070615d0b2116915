"""Decoding steps run by torch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from histgen_lib.models.histgen.decoder import StepOutput, TextDecoder
from histgen_lib.models.histgen.decoding import Ints, Step
from histgen_lib.models.histgen.encoder import RegionMemory
from histgen_lib.models.histgen.layers import Slots


class CachedNetwork(Protocol):
    """What a step needs of the network; `HistGen` says what each method takes and gives."""

    decoder: TextDecoder

    def memory_slots(self) -> Slots:
        """Keys and values of the shared memory."""
        ...

    def empty_cache(self, slides: int) -> Tensor:
        """Make the cache of no tokens yet."""
        ...

    def step(
        self, tokens: Tensor, cache: Tensor, cross: Tensor, region_valid: Tensor, slots: Slots
    ) -> StepOutput:
        """Feed one token a beam."""
        ...


class TorchCache(NamedTuple):
    """Keys and values of the words so far and of the regions, and which regions are real."""

    past: Tensor
    cross: Tensor
    valid: Tensor


class TorchStepper:
    """A `Stepper` over the network itself, for a batch of encoded slides (`HistGen.region_memory`)."""

    def __init__(self, model: CachedNetwork, memory: RegionMemory) -> None:
        self.model = model
        self._valid = memory.valid
        self._cross = model.decoder.cross(memory.regions)
        self._slots = model.memory_slots()

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return len(self._valid)

    def start(self) -> TorchCache:
        """Make the cache before the first token."""
        return TorchCache(self.model.empty_cache(self.slides), self._cross, self._valid)

    def step(self, tokens: Ints, cache: TorchCache) -> Step:
        """Feed tokens int64[S, B] and get log-probabilities, attention and the longer cache."""
        fed = torch.from_numpy(tokens).to(cache.past.device)
        out = self.model.step(fed, *cache, self._slots)
        longer = cache._replace(past=out.cache)
        return Step(out.words.cpu().numpy(), out.attention.cpu().numpy(), longer)

    def select(self, cache: TorchCache, slides: Ints, beams: Ints) -> TorchCache:
        """Keep these slides and of each these beams."""
        device = cache.past.device
        kept, of_each = torch.from_numpy(slides).to(device), torch.from_numpy(beams).to(device)
        past = cache.past[:, :, kept[:, None], of_each]
        if len(slides) == len(cache.valid):
            return cache._replace(past=past)
        return TorchCache(past, cache.cross[:, :, kept], cache.valid[kept])

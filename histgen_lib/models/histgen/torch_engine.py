"""The report model by torch: several slides encoded one after the other, and decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.histgen.batches import Bag
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings, decode, follow
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.serving import Written
from histgen_lib.models.histgen.torch_encode import SlideEncoder
from histgen_lib.models.histgen.torch_search import OneBeam, Searches


class TorchEngine:
    """A `BatchEngine` by torch. Calls from several threads take turns.

    On a GPU a report's tokens are those of the CPU unless two texts score the same to within the type's
    accuracy; probabilities and evidence agree within the tolerances that tests/gpu states.
    """

    def __init__(self, model: HistGen, device: torch.device, dtype: torch.dtype) -> None:
        self._words = model.config.vocab_size + 1
        self._encode = SlideEncoder(model, device, dtype)
        self._searches = Searches(model, device, dtype)
        self._lock = Lock()

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> Written:
        """See `ReportEngine.write`."""
        return self.write_many([(features, places)], settings)[0]

    def write_many(self, bags: Sequence[Bag], settings: DecodingSettings) -> list[Written]:
        """See `BatchEngine.write_many`. Raises MemoryError, InvalidInputError("decoding-settings")."""
        try:
            with self._lock:
                slides = [self._encode(*bag) for bag in bags]
                texts = self._decode([slide.cross for slide in slides], settings)
                weights = [slide.tile_weights.cpu().numpy() for slide in slides]
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError from error
        return [Written(text, shares) for text, shares in zip(texts, weights, strict=True)]

    def _decode(self, crosses: Sequence[Tensor], settings: DecodingSettings) -> list[Decoded]:
        if settings.method != "beam":
            texts = decode(OneBeam(self._searches.load(crosses, 1, settings.max_tokens)), settings)
            return [_narrowed(text, cross) for text, cross in zip(texts, crosses, strict=True)]
        if settings.beam_size > self._words:
            raise InvalidInputError(
                "decoding-settings",
                f"Beam search cannot keep {settings.beam_size} texts of {self._words} words.",
                hint="Ask for fewer beams than the model has words.",
            )
        return follow(self._searches.load(crosses, settings.beam_size, settings.max_tokens), settings)


def _narrowed(text: Decoded, cross: Tensor) -> Decoded:
    """Leave only the slide's own regions of those of the batch's largest."""
    return replace(text, attention=text.attention[:, : cross.shape[-2]])

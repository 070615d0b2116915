"""The report model on CPUs: exported networks on ONNX Runtime. Torch-free."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import DecodingSettings, Floats, Ints, Step, decode
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.serving import DECODER_ONNX, ENCODER_ONNX, Features, Written, report_config
from histgen_lib.models.serving import OnnxSession, ServedFolder, Session


class CpuEngine:
    """A `ReportEngine` over the graphs that `histgen_lib.export` writes for ONNX Runtime."""

    def __init__(self, config: HistGenConfig, encoder: Session, decoder: Session) -> None:
        self.config = config
        self._encoder, self._decoder = encoder, decoder

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> Written:
        """See `ReportEngine.write`."""
        slide = encode_slide(self._encoder, features, places)
        text = decode(OnnxStepper(self._decoder, self.config, [slide]), settings)[0]
        return Written(text, slide.tile_weights)


def cpu_engine(folder: ServedFolder, threads: int | None) -> CpuEngine:
    """Load a model folder's networks. Raises FatalError: "model-incomplete", "model-onnx"."""
    encoder = OnnxSession(folder.file(ENCODER_ONNX), threads, shrink=True)
    decoder = OnnxSession(folder.file(DECODER_ONNX), threads)
    return CpuEngine(report_config(folder), encoder, decoder)


class EncodedSlide(NamedTuple):
    """`tile_weights` float32[R, P], each tile's share in its region; `cross`, what the decoder attends to."""

    tile_weights: Floats
    cross: Floats


class OnnxCache(NamedTuple):
    """Keys and values of the words so far and of the regions, and which regions are real."""

    past: Floats
    cross: Floats
    valid: npt.NDArray[np.bool_]


def encode_slide(encoder: Session, features: Features, places: Arrangement) -> EncodedSlide:
    """Run histgen_encoder.onnx on one slide's tiles."""
    tiles = features[places.rows].astype(np.float32)
    tiles[~places.mask] = 0
    spread = np.zeros(len(features), dtype=np.int64)
    spread[places.rows[places.mask]] = np.flatnonzero(places.mask)
    found = encoder.run({"tiles": tiles, "mask": places.mask, "prototypes": spread[places.prototypes]})
    return EncodedSlide(found["tile_weights"], found["cross"])


class OnnxStepper:
    """A `Stepper` over histgen_decoder.onnx, for slides encoded one by one."""

    def __init__(self, decoder: Session, config: HistGenConfig, slides: list[EncodedSlide]) -> None:
        self._decoder = decoder
        self._config = config
        regions = np.array([len(slide.tile_weights) for slide in slides])
        self._valid = np.arange(regions.max())[None, :] < regions[:, None]
        self._cross = np.concatenate([_padded(slide.cross, int(regions.max())) for slide in slides], axis=2)

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return len(self._valid)

    def start(self) -> OnnxCache:
        """Make the cache before the first token."""
        c = self._config
        shape = (c.num_layers, 2, self.slides, 1, c.num_heads, 0, c.d_model // c.num_heads)
        return OnnxCache(np.zeros(shape, dtype=np.float32), self._cross, self._valid)

    def step(self, tokens: Ints, cache: OnnxCache) -> Step[OnnxCache]:
        """Feed tokens int64[S, B] and get log-probabilities, attention and the longer cache."""
        inputs: dict[str, npt.NDArray[Any]] = {"tokens": tokens, **cache._asdict()}
        found = self._decoder.run(inputs)
        return Step(found["log_probs"], found["attention"], cache._replace(past=found["present"]))

    def select(self, cache: OnnxCache, slides: Ints, beams: Ints) -> OnnxCache:
        """Keep these slides and of each these beams."""
        past = cache.past[:, :, slides[:, None], beams]
        if len(slides) == len(cache.valid):
            return cache._replace(past=past)
        return OnnxCache(past, cache.cross[:, :, slides], cache.valid[slides])


def _padded(cross: Floats, regions: int) -> Floats:
    spare = regions - cross.shape[-2]
    return np.pad(cross, [(0, 0)] * 4 + [(0, spare), (0, 0)])

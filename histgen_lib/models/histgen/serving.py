"""HistGen as a server hosts it: one bag of tile features in, a report's tokens with their evidence out."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import (
    REQUEST_SETTINGS,
    Decoded,
    DecodingChanges,
    DecodingSettings,
    Floats,
    Ints,
    Step,
    decode,
)
from histgen_lib.models.histgen.layout import RegionLayout, lay_out, tile_order
from histgen_lib.models.serving import (
    Compute,
    Misfit,
    OnnxSession,
    Runner,
    ServedFolder,
    ServedModel,
    Session,
    Tensors,
    TensorSpec,
)

NAME = "histgen"
ENCODER_ONNX = "histgen_encoder.onnx"
DECODER_ONNX = "histgen_decoder.onnx"

_BAG = Misfit("bag-shape")
_FEATURES = Misfit("bag-shape", "Encode the slide with the tile encoder that the model was trained with.")
_SETTING = Misfit("decoding-settings")


def _inputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    """`HistGenRunner.infer` says what each tensor holds."""
    return (
        TensorSpec("features", "float16|float32", (-1, _config(folder).input_dim)),
        TensorSpec("xy", "int32", (-1, 2)),
        TensorSpec("slide", "int32", (-1,), optional=True),
        TensorSpec("span_px", "float32", (1,), optional=True),
        *(TensorSpec(name, dtype, (1,), optional=True) for name, dtype in REQUEST_SETTINGS.items()),
    )


def _outputs(_: ServedFolder) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tokens", "int32", (-1,)),
        TensorSpec("logprobs", "float32", (-1,)),
        TensorSpec("evidence", "float32", (-1, -1)),
        TensorSpec("score", "float32", (1,)),
    )


def _runner(folder: ServedFolder, compute: Compute) -> Runner:
    encoder = OnnxSession(folder.file(ENCODER_ONNX), compute.threads, shrink=True)
    decoder = OnnxSession(folder.file(DECODER_ONNX), compute.threads)
    return HistGenRunner(_config(folder), DecodingSettings(**folder.config["decoding"]), encoder, decoder)


def _config(folder: ServedFolder) -> HistGenConfig:
    return HistGenConfig.from_json(folder.config["histgen"])


MODEL = ServedModel(
    name=NAME,
    files=(ENCODER_ONNX, DECODER_ONNX),
    inputs=_inputs,
    outputs=_outputs,
    runner=_runner,
    batching="bags",
    largest=8,
    misfits={
        "features": _FEATURES,
        "xy": _BAG,
        "slide": _BAG,
        "span_px": _SETTING,
        **dict.fromkeys(REQUEST_SETTINGS, _SETTING),
    },
    cheap={"max_tokens": 1},
    weights=("histgen.safetensors",),
)


class HistGenRunner:
    """The exported report model, ready to run; one slide (or case) a call."""

    def __init__(
        self, config: HistGenConfig, decoding: DecodingSettings, encoder: Session, decoder: Session
    ) -> None:
        self.config, self.decoding = config, decoding
        self._encoder, self._decoder = encoder, decoder

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Write the report of one slide, or of a case of several, as tokens.

        In: "features" float16|float32[N, D]; "xy" int32[N, 2], top-left corners in level-0 px; optional, one
        value each: "span_px" (tile side in level-0 px; the grid's spacing by default), "beam_size",
        "max_tokens", "temperature", "top_k", "top_p", "seed", and "method" (string). For a case also "slide"
        int32[N], ascending: the number of the slide on which each tile lies. Each slide then starts a region
        of its own, except in a model in published mode, whose regions cannot be padded.
        Out: "tokens" int32[T] without the end token; "logprobs" float32[T]; "evidence" float32[T, N], weights
        over the tiles in input order, each row sums to 1; "score" float32[1].

        Raises InvalidInputError: "tensor-missing", "bag-shape", "bag-empty", "bag-not-finite",
        "decoding-settings".
        """
        features, xy = self._bag(tensors)
        runs = self._runs(tensors, len(xy))
        order = self._order(xy, runs, tensors)
        layout = lay_out(features[order], self.config.tiles_per_region, self.config.prototype_num, runs)
        slide = encode_slide(self._encoder, layout)
        stepper = OnnxStepper(self._decoder, self.config, [slide])
        text = decode(stepper, self._settings(tensors))[0]
        return {
            "tokens": text.tokens.astype(np.int32),
            "logprobs": text.log_probs,
            "evidence": tile_evidence(text, slide, order, layout.mask),
            "score": np.array([text.score], dtype=np.float32),
        }

    def _bag(self, tensors: Tensors) -> tuple[Floats, Ints]:
        missing = [name for name in ("features", "xy") if name not in tensors]
        if missing:
            raise InvalidInputError("tensor-missing", f"The request lacks {', '.join(missing)}.")
        features, xy = np.asarray(tensors["features"], dtype=np.float32), np.asarray(tensors["xy"])
        if features.ndim != 2 or features.shape[1] != self.config.input_dim or xy.shape != (len(features), 2):
            raise InvalidInputError(
                "bag-shape",
                f"This model takes features [tiles, {self.config.input_dim}] and xy [tiles, 2]; "
                f"these are {list(features.shape)} and {list(xy.shape)}.",
                hint="Encode the slide with the tile encoder that the model was trained with.",
            )
        if not np.isfinite(features).all():
            raise InvalidInputError(
                "bag-not-finite", "Some tile features are not numbers.", hint="Encode the slide again."
            )
        return features, xy.astype(np.int64)

    def _runs(self, tensors: Tensors, count: int) -> list[int]:
        """Count the tiles of each slide that has regions of its own."""
        if self.config.mode == "published" or "slide" not in tensors:
            return [count]
        slide = np.asarray(tensors["slide"]).reshape(-1)
        if len(slide) != count or np.any(np.diff(slide) < 0):
            raise InvalidInputError(
                "bag-shape",
                f"A case needs one slide number for each of its {count} tiles, in ascending order.",
                hint="Concatenate the bags of the case, one after the other.",
            )
        return [int(run) for run in np.unique(slide, return_counts=True)[1]] or [count]

    def _order(self, xy: Ints, runs: list[int], tensors: Tensors) -> Ints:
        if self.config.mode == "published":
            return np.arange(len(xy))
        span_px = float(_single(tensors["span_px"])) if "span_px" in tensors else grid_spacing_px(xy)
        ends = np.cumsum(runs)
        return np.concatenate(
            [
                end - run + tile_order(xy[end - run : end], span_px)
                for end, run in zip(ends, runs, strict=True)
            ]
        )

    def _settings(self, tensors: Tensors) -> DecodingSettings:
        requested = {name: _single(tensors[name]) for name in REQUEST_SETTINGS if name in tensors}
        return self.decoding.replace(**cast(DecodingChanges, requested))


class EncodedSlide(NamedTuple):
    """`tile_weights` float32[R, P], each tile's share in its region; `cross`, what the decoder attends to."""

    tile_weights: Floats
    cross: Floats


class OnnxCache(NamedTuple):
    """Keys and values of the words so far and of the regions, and which regions are real."""

    past: Floats
    cross: Floats
    valid: npt.NDArray[np.bool_]


def encode_slide(encoder: Session, layout: RegionLayout) -> EncodedSlide:
    """Run histgen_encoder.onnx on one slide's laid-out tiles."""
    found = encoder.run({"tiles": layout.tiles, "mask": layout.mask, "prototypes": layout.prototypes})
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


def tile_evidence(
    text: Decoded, slide: EncodedSlide, order: Ints, mask: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """Weights of tiles behind each token: float32[T, N] in input order, rows sum to 1.

    A token's attention to a region is divided among the region's tiles by their pooling weights. `mask`
    bool[R, P] marks the real tiles of the layout; None for one slide, whose padding is all at the end.
    """
    laid_out = text.attention[:, :, None] * slide.tile_weights[None]
    flat = laid_out.reshape(len(text.tokens), slide.tile_weights.size)
    placed = flat[:, : len(order)] if mask is None else flat[:, mask.ravel()]
    evidence = np.zeros((len(text.tokens), len(order)), dtype=np.float32)
    evidence[:, order] = placed / placed.sum(axis=1, keepdims=True)
    return evidence


def grid_spacing_px(xy: Ints) -> float:
    """Return the smallest distance between columns or rows of tiles, in level-0 px; 1 for a single tile."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in np.asarray(xy).T])
    return float(steps.min()) if steps.size else 1.0


def _padded(cross: Floats, regions: int) -> Floats:
    spare = regions - cross.shape[-2]
    return np.pad(cross, [(0, 0)] * 4 + [(0, spare), (0, 0)])


def _single(values: npt.NDArray[Any]) -> Any:
    """Return the one value of an array as Python has it."""
    flat = np.asarray(values).reshape(-1)
    if len(flat) != 1:
        raise InvalidInputError("decoding-settings", "A decoding setting has one value.")
    value = flat[0].item() if isinstance(flat[0], np.generic) else flat[0]
    return value.decode() if isinstance(value, bytes) else value

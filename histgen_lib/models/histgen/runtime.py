"""A bag of tile features to tokens with evidence, by ONNX Runtime and NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings, Floats, Ints, decode
from histgen_lib.models.histgen.folder import DECODER_ONNX, ENCODER_ONNX, ModelFolder
from histgen_lib.models.histgen.layout import lay_out, tile_order
from histgen_lib.models.histgen.onnx_stepper import EncodedSlide, OnnxStepper, encode_slide
from histgen_lib.models.onnx_session import OnnxSession

Tensors = Mapping[str, npt.NDArray[Any]]


class HistGenRuntime:
    """The exported report model of a folder, ready to run; one slide a call."""

    def __init__(self, folder: ModelFolder, threads: int | None = None) -> None:
        self.config = folder.histgen
        self.decoding = folder.decoding
        self._encoder = OnnxSession(folder.file(ENCODER_ONNX), threads, shrink=True)
        self._decoder = OnnxSession(folder.file(DECODER_ONNX), threads)

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Write one slide's report as tokens.

        In: "features" float16|float32[N, D]; "xy" int32[N, 2], level-0 px, top-left; optional, one value
        each: "span_px" (tile side in level-0 px; else the grid's spacing is taken), "beam_size",
        "max_tokens", "temperature", "top_k", "top_p", "seed", and "method" (string). For a case of several
        slides also "slide" int32[N], ascending: which of them each tile lies on. Each slide then starts a
        region of its own, but for a model in published mode, whose regions know no padding among them.
        Out: "tokens" int32[T] without the end; "logprobs" float32[T]; "evidence" float32[T, N], weights
        over the tiles in the order they came, each row sums to 1; "score" float32[1].

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
        """Count the tiles of each slide that keeps its regions to itself."""
        if self.config.mode == "published" or "slide" not in tensors:
            return [count]
        slide = np.asarray(tensors["slide"]).reshape(-1)
        if len(slide) != count or np.any(np.diff(slide) < 0):
            raise InvalidInputError(
                "bag-shape",
                f"A case's slide numbers are one for each of its {count} tiles, in ascending order.",
                hint="Put the bags of the case one after the other.",
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
        stated = {name: kind(_single(tensors[name])) for name, kind in _SETTINGS.items() if name in tensors}
        return self.decoding.replace(**stated)


def tile_evidence(
    text: Decoded, slide: EncodedSlide, order: Ints, mask: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """Weights of tiles behind each token: float32[T, N] in input order, rows sum to 1.

    A token's attention to a region is shared among the region's tiles as they were pooled. `mask`
    bool[R, P], where the layout has real tiles; None for one slide, whose padding is all at the end.
    """
    laid_out = text.attention[:, :, None] * slide.tile_weights[None]
    flat = laid_out.reshape(len(text.tokens), slide.tile_weights.size)
    placed = flat[:, : len(order)] if mask is None else flat[:, mask.ravel()]
    evidence = np.zeros((len(text.tokens), len(order)), dtype=np.float32)
    evidence[:, order] = placed / placed.sum(axis=1, keepdims=True)
    return evidence


def grid_spacing_px(xy: Ints) -> float:
    """Smallest distance between columns or rows of tiles, level-0 px; 1 for a single tile."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in np.asarray(xy).T])
    return float(steps.min()) if steps.size else 1.0


def _single(value: npt.NDArray[Any]) -> Any:
    values = np.asarray(value).reshape(-1)
    if len(values) != 1:
        raise InvalidInputError("decoding-settings", "A decoding setting is one value.")
    return values[0]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "beam_size": int,
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
    "method": _text,
}

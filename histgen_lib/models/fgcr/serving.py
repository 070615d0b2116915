"""FGCR as a server hosts it: a bag to the vectors of a slide and of its regions, tokens to that of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.bag_tensors import bag_of, grid_spacing_px
from histgen_lib.models.fgcr.anchors import find_regions
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.histgen.layout import empty_bag
from histgen_lib.models.serving import (
    Compute,
    Misfit,
    OnnxSession,
    ServedFolder,
    ServedModel,
    Session,
    Tensors,
    TensorSpec,
)

FGCR_IMAGE_ONNX = "fgcr_image.onnx"
FGCR_TEXT_ONNX = "fgcr_text.onnx"

_FARTHEST_PX = 1 << 29
"""Of a tile's corner, and of its side, in level-0 px; slides have less than 2^20."""


def retrieval_config(folder: ServedFolder) -> FgcrConfig:
    """Return sizes and mode of a model folder's retrieval network.

    Raises FatalError: "model-incomplete" if it has none, "model-config".
    """
    section = folder.config.get("retrieval") or {}
    if not section:
        raise FatalError(
            "model-incomplete",
            f"The model {folder.path.name} has no retrieval network.",
            hint="Fetch a model that has one, or train it.",
        )
    try:
        return FgcrConfig.from_json(section["network"])
    except (InvalidInputError, KeyError, TypeError) as error:
        raise FatalError(
            "model-config",
            f'The section "retrieval" of the model {folder.path.name} cannot be used ({error}).',
            hint="Was it written by another version, or edited? Fetch the model again.",
        ) from error


class ImageRunner:
    """Finds the regions of a slide, and has the network embed both. One slide a call."""

    def __init__(self, config: FgcrConfig, session: Session) -> None:
        self._config, self._session = config, session

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Embed one slide, of any size.

        In: "features" float16|float32[N, D]; "xy" int32[N, 2], top-left corners in level-0 px; optional
        "span_px" float32[1], a tile's side in level-0 px (the grid's spacing by default).
        Out: "slide" float32[d] and "regions" float32[R, d], of unit length, 1 ≤ R ≤ 25; "boxes" int32[R, 4],
        x, y, width and height of the regions in level-0 px, within the tiles' extent.

        Raises InvalidInputError: "tensor-missing", "bag-shape", "bag-empty", "bag-not-finite".
        """
        features, xy = bag_of(tensors, self._config.input_dim)
        if not len(xy):
            raise empty_bag()
        span_px = _span_px(tensors["span_px"]) if "span_px" in tensors else grid_spacing_px(xy)
        _check_extent(xy, span_px)
        regions = find_regions(xy, span_px, self._config)
        given: dict[str, npt.NDArray[Any]] = {
            "features": features.astype(np.float32, copy=False),
            "soft_mask": regions.soft_mask,
        }
        if self._config.corrected:
            given |= {"anchors": regions.rows, "scales": regions.scales}
        return self._session.run(given) | {"boxes": regions.boxes}


class TextRunner:
    """Has the network embed a report, a sentence or a question. One text a call."""

    def __init__(self, config: FgcrConfig, session: Session) -> None:
        self._config, self._session = config, session

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Embed "tokens" int32[T], 1 ≤ T ≤ `max_words`, as `Words.encode` makes them.

        Out: "vector" float32[d], of unit length.

        Raises InvalidInputError: "tensor-missing", "tensor-shape", "tokens-unknown".
        """
        if "tokens" not in tensors:
            raise InvalidInputError("tensor-missing", "The request lacks tokens.")
        tokens = np.asarray(tensors["tokens"]).reshape(-1).astype(np.int64)
        if not 1 <= len(tokens) <= self._config.max_words:
            raise InvalidInputError(
                "tensor-shape",
                f"This network reads 1 to {self._config.max_words} tokens; these are {len(tokens)}.",
                hint="Cut the text, as the model's vocabulary does.",
            )
        if np.any((tokens < 0) | (tokens >= self._config.vocab_size)):
            raise InvalidInputError(
                "tokens-unknown",
                f"These tokens are not all within 0…{self._config.vocab_size - 1}.",
                hint="Use the fgcr_words.json of the model itself.",
            )
        return self._session.run({"tokens": tokens})


def _span_px(values: npt.NDArray[Any]) -> float:
    spans = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(spans) != 1 or not np.isfinite(spans[0]) or spans[0] <= 0:
        raise InvalidInputError(
            "bag-shape", "span_px is one number above 0, the side of a tile in level-0 px."
        )
    return float(spans[0])


def _check_extent(xy: npt.NDArray[np.int64], span_px: float) -> None:
    """Refuse tiles whose boxes would not fit into int32."""
    if max(int(xy.max()), -int(xy.min()), span_px) > _FARTHEST_PX:
        raise InvalidInputError(
            "bag-shape", f"The tiles lie or reach farther than {_FARTHEST_PX} px: no slide is so large."
        )


def _session(folder: ServedFolder, name: str) -> OnnxSession:
    """Load a network for one thread, whatever it runs beside: its bits then depend on nothing else."""
    return OnnxSession(folder.file(name), threads=1, shrink=True)


def _image_inputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("features", "float16|float32", (-1, retrieval_config(folder).input_dim)),
        TensorSpec("xy", "int32", (-1, 2)),
        TensorSpec("span_px", "float32", (1,), optional=True),
    )


def _image_outputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    width = retrieval_config(folder).vector_dim
    return (
        TensorSpec("slide", "float32", (width,)),
        TensorSpec("regions", "float32", (-1, width)),
        TensorSpec("boxes", "int32", (-1, 4)),
    )


def _image_runner(folder: ServedFolder, _: Compute) -> ImageRunner:
    return ImageRunner(retrieval_config(folder), _session(folder, FGCR_IMAGE_ONNX))


def _text_inputs(_: ServedFolder) -> tuple[TensorSpec, ...]:
    return (TensorSpec("tokens", "int32", (-1,)),)


def _text_outputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    return (TensorSpec("vector", "float32", (retrieval_config(folder).vector_dim,)),)


def _text_runner(folder: ServedFolder, _: Compute) -> TextRunner:
    return TextRunner(retrieval_config(folder), _session(folder, FGCR_TEXT_ONNX))


_FEATURES = Misfit("bag-shape", "Encode the slide with the tile encoder that the model was trained with.")

IMAGE = ServedModel(
    name="fgcr_image",
    files=(FGCR_IMAGE_ONNX,),
    inputs=_image_inputs,
    outputs=_image_outputs,
    runner=_image_runner,
    batching="bags",
    largest=8,
    misfits={"features": _FEATURES, "xy": Misfit("bag-shape"), "span_px": Misfit("bag-shape")},
    optional=True,
)

TEXT = ServedModel(
    name="fgcr_text",
    files=(FGCR_TEXT_ONNX,),
    inputs=_text_inputs,
    outputs=_text_outputs,
    runner=_text_runner,
    batching="bags",
    largest=64,
    optional=True,
)

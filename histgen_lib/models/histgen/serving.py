"""HistGen as a server hosts it: one bag of tile features in, a report's tokens with their evidence out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.bag_tensors import Features, bag_of, grid_spacing_px
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import (
    REQUEST_SETTINGS,
    Decoded,
    DecodingChanges,
    DecodingSettings,
    Floats,
    Ints,
)
from histgen_lib.models.histgen.layout import Arrangement, arrange, tile_order
from histgen_lib.models.serving import (
    Compute,
    Misfit,
    Runner,
    ServedFolder,
    ServedModel,
    Tensors,
    TensorSpec,
)

NAME = "histgen"
PROTOTYPES_ONNX = "histgen_prototypes.onnx"
CONTEXT_ONNX = "histgen_context.onnx"
REGIONS_ONNX = "histgen_regions.onnx"
SLIDE_ONNX = "histgen_slide.onnx"
POOLING_ONNX = "histgen_pooling.onnx"
WORDS_ONNX = "histgen_words.onnx"
RECALL_ONNX = "histgen_recall.onnx"
STEP_ONNX = "histgen_step.onnx"
PARTS = (
    PROTOTYPES_ONNX,
    CONTEXT_ONNX,
    REGIONS_ONNX,
    SLIDE_ONNX,
    POOLING_ONNX,
    WORDS_ONNX,
    RECALL_ONNX,
    STEP_ONNX,
)
"""The graphs that a CPU runs one after the other (`histgen_lib.export.cpu_graphs`)."""


def head_inputs(head: int) -> tuple[str, str]:
    """Return a head's names in the prototypes' graphs: scores of slots, and which to drop."""
    return (f"scores_{head}", f"dropped_{head}")


def layer_inputs(layer: int) -> tuple[str, str, str, str]:
    """Return the names of the step's inputs for a layer: keys and values of the words, and of the regions."""
    return (f"keys_{layer}", f"values_{layer}", f"cross_keys_{layer}", f"cross_values_{layer}")


_BAG = Misfit("bag-shape")
_FEATURES = Misfit("bag-shape", "Encode the slide with the tile encoder that the model was trained with.")
_SETTING = Misfit("decoding-settings")


def _inputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    """`HistGenRunner.infer` says what each tensor holds."""
    return (
        TensorSpec("features", "float16|float32", (-1, report_config(folder).input_dim)),
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
    if (compute.device, compute.precision) != ("cpu", "float32"):
        from histgen_lib.models.histgen.torch_runner import torch_runner  # torch is heavy, and an extra

        return torch_runner(folder, compute)
    from histgen_lib.models.histgen.on_cpu import cpu_engine

    return report_runner(folder, cpu_engine(folder, compute.threads))


def report_runner(folder: ServedFolder, engine: ReportEngine) -> HistGenRunner:
    """Make the runner of a model folder's report model over an engine that runs its network."""
    return HistGenRunner(report_config(folder), DecodingSettings(**folder.config["decoding"]), engine)


def report_config(folder: ServedFolder) -> HistGenConfig:
    """Return sizes and mode of a model folder's report network."""
    return HistGenConfig.from_json(folder.config["histgen"])


MODEL = ServedModel(
    name=NAME,
    files=PARTS,
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
    engines=("histgen_encoder", "histgen_step"),
)


class Request(NamedTuple):
    """A request whose tensors fit: features [N, D] in input order, their regions, how to choose words."""

    features: Features
    places: Arrangement
    settings: DecodingSettings


class Written(NamedTuple):
    """A report as an engine writes it.

    `text`: tokens, their probabilities, and their attention to the regions; `tile_weights` float32[R, P]:
    each tile's share in its region.
    """

    text: Decoded
    tile_weights: Floats


class ReportEngine(Protocol):
    """The report network on one kind of hardware. Safe to use from several threads."""

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> Written:
        """Encode one slide (or case) and decode its report.

        `features` float16|float32[N, D], finite, in input order; `places` says which region each row is in.
        """
        ...


class HistGenRunner:
    """The report model behind a server: checks requests, has its engine write, and says what was looked at.

    One slide (or case) a call.
    """

    def __init__(self, config: HistGenConfig, decoding: DecodingSettings, engine: ReportEngine) -> None:
        self.config, self.decoding = config, decoding
        self._engine = engine

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
        request = self.read(tensors)
        return answer(request, self._engine.write(*request))

    def read(self, tensors: Tensors) -> Request:
        """Check one request's tensors, and lay its tiles out; raises as `infer`."""
        features, xy = bag_of(tensors, self.config.input_dim)
        runs = self._runs(tensors, len(xy))
        order = self._order(xy, runs, tensors)
        places = arrange(order, self.config.tiles_per_region, self.config.prototype_num, runs)
        return Request(features, places, self._settings(tensors))

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


def answer(request: Request, written: Written) -> dict[str, npt.NDArray[Any]]:
    """Turn a written report into the tensors that `HistGenRunner.infer` returns."""
    text = written.text
    return {
        "tokens": text.tokens.astype(np.int32),
        "logprobs": text.log_probs,
        "evidence": tile_evidence(text.attention, written.tile_weights, request.places),
        "score": np.array([text.score], dtype=np.float32),
    }


def tile_evidence(attention: Floats, tile_weights: Floats, places: Arrangement) -> Floats:
    """Weights of tiles behind each token: float32[T, N] in input order, rows sum to 1.

    A token's attention to a region (`attention` float32[T, R]) is divided among the region's tiles by their
    pooling weights (`tile_weights` float32[R, P]).
    """
    tiles = places.rows[places.mask]
    shares = tile_weights[places.mask]
    inside = np.count_nonzero(places.mask, axis=1)
    found = np.empty_like(tiles)
    found[tiles] = np.arange(len(tiles))
    evidence = np.empty((len(attention), len(tiles)), dtype=np.float32)
    for row, looked in zip(
        evidence, attention, strict=True
    ):  # one token at a time: no second array of the size
        placed = np.repeat(looked, inside)
        placed *= shares
        placed /= placed.sum()
        np.take(placed, found, out=row, mode="clip")  # that mode writes without a buffer
    return evidence


def _single(values: npt.NDArray[Any]) -> Any:
    """Return the one value of an array as Python has it."""
    flat = np.asarray(values).reshape(-1)
    if len(flat) != 1:
        raise InvalidInputError("decoding-settings", "A decoding setting has one value.")
    value = flat[0].item() if isinstance(flat[0], np.generic) else flat[0]
    return value.decode() if isinstance(value, bytes) else value

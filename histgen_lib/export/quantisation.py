"""Tile encoders in int8: ranges from tiles of a lab's own slides, and what it costs, measured on others.

Weights are quantised per channel, inputs of layers per tensor, both symmetrically, as TensorRT takes them.
Weights are at most 64, a bit less than int8 has: x86 processors without VNNI add two products in 16 bits, and
where those overflow ONNX Runtime silently computes something else (its guide to quantisation: reduce_range).
The layers whose inputs have the strongest outliers stay in float, as many as it takes.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.export.external_data import data_path, graph_written
from histgen_lib.models.serving import OnnxSession

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Likeness:
    """Cosines between two encoders' features of the same tiles: their mean, and the worst tile's.

    `centred`: the mean once the mean feature is subtracted, which all tiles share and which says nothing.
    """

    cosine: float
    centred: float
    lowest: float = -1.0

    def reaches(self, least: Likeness) -> bool:
        """Return whether no cosine is less."""
        return self.cosine >= least.cosine and self.centred >= least.centred and self.lowest >= least.lowest


LEAST = Likeness(cosine=0.99, centred=0.95)
"""What the features of an encoder in int8 need to be like those in float32, on average, to be accepted."""

_LAYERS = ("Conv", "Gemm", "MatMul")
_KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
"""Shares of the layers that stay in float, in the order in which they are tried."""
_HELD_OUT = 4
"""Every fourth tile is not used for calibration, but to measure what int8 costs."""
_LEAST_TILES = 16
_LOOKED_AT = 8
"""Tiles on which outliers are looked for."""


@dataclass(frozen=True)
class Quantised:
    """What int8 costs, measured on held-out tiles. `kept`: layers that stay in float, of `layers`."""

    likeness: Likeness
    calibration_tiles: int
    held_out_tiles: int
    layers: int
    kept: int

    def to_config(self) -> dict[str, Any]:
        """Return it as a model folder's config.json states it."""
        return {"precision": "int8", **asdict(self.likeness)} | {
            name: value for name, value in asdict(self).items() if name != "likeness"
        }


def quantise(source: Path, target: Path, tiles: Pixels) -> Quantised:
    """Write the encoder `source` (ONNX, float32) in int8 to `target`; calibrate with most of the tiles.

    `tiles` uint8[N, S, S, 3], shuffled. Raises InvalidInputError: "export-int8-tiles" for fewer than 16,
    "export-int8-loss" if the features stay below `LEAST`; `target` is then not written.
    """
    if len(tiles) < _LEAST_TILES:
        raise InvalidInputError(
            "export-int8-tiles",
            f"{len(tiles)} tiles are too few to calibrate an encoder.",
            hint=f"Give --calibrate slides with at least {_LEAST_TILES} tiles of tissue.",
        )
    held_out, used = tiles[::_HELD_OUT], np.delete(tiles, np.s_[::_HELD_OUT], axis=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".int8.", dir=target.parent) as place:
        work = _Work(source, Path(place), used)
        found, kept = work.quantised()
        measured = compare(features(source, held_out), features(found, held_out))
        if not measured.reaches(LEAST):
            raise _too_lossy(measured)
        with graph_written(target) as written:
            found.replace(written)
            if data_path(found).is_file():
                data_path(found).replace(data_path(written.with_name(found.name)))
    return Quantised(measured, len(used), len(held_out), len(work.layers), kept)


def features(graph: Path, tiles: Pixels) -> Floats:
    """Return the features float32[N, D] of tiles, each computed by itself."""
    session = OnnxSession(graph)
    found = [session.run({"tiles": tile[None]})["features"] for tile in tiles]
    return np.concatenate(found).astype(np.float32)


def compare(expected: Floats, found: Floats) -> Likeness:
    """Compare features float32[N, D] row by row."""
    cosines = _cosines(expected, found)
    middle = expected.mean(axis=0)
    centred = _cosines(expected - middle, found - middle)
    return Likeness(float(cosines.mean()), float(centred.mean()), float(cosines.min()))


def _cosines(first: Floats, second: Floats) -> Floats:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: Floats = (first * second).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosines


class _Work:
    """One encoder being quantised in a folder of its own."""

    def __init__(self, source: Path, place: Path, tiles: Pixels) -> None:
        import onnx

        self._source, self._place, self._tiles = source, place, tiles
        model = onnx.load(str(source), load_external_data=False)
        self.layers = _by_outliers(model, _peaks(model, source, place, tiles[:_LOOKED_AT]))

    def quantised(self) -> tuple[Path, int]:
        """Keep ever more layers in float until calibration tiles agree; return the graph, and how many."""
        looked_at = self._tiles[: 4 * _LOOKED_AT]
        expected = features(self._source, looked_at)
        for share in _KEPT_SHARES:
            kept = math.ceil(share * len(self.layers))
            found = self._quantise(self.layers[:kept])
            if compare(expected, features(found, looked_at)).reaches(LEAST):
                break
        return found, kept

    def _quantise(self, kept: Sequence[str]) -> Path:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        found = self._place / f"int8-{len(kept)}.onnx"
        with _quiet_root():
            quantize_static(
                self._source,
                found,
                _Reader(self._tiles),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=self.layers[len(kept) :],
                op_types_to_quantize=list(_LAYERS),
                calibration_cache_path=self._place / "ranges.json",
                use_external_data_format=data_path(self._source).is_file(),
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        return found


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Silence the root logger, to which the quantiser speaks; it would otherwise get a handler for good."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.disabled = True
    try:
        yield
    finally:
        root.disabled = False
        root.removeHandler(handler)


class _Reader:
    """Hands the quantiser one tile at a time."""

    def __init__(self, tiles: Pixels) -> None:
        self._left: Iterator[Pixels] = iter(np.split(tiles, len(tiles)))

    def get_next(self) -> dict[str, Pixels] | None:
        """Return the next tile; None after the last."""
        tile = next(self._left, None)
        return None if tile is None else {"tiles": tile}


def _weighted(model: ModelProto) -> list[NodeProto]:
    """List the layers with weights, in the graph's order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in _LAYERS and node.input[1] in weights]


def _peaks(model: ModelProto, source: Path, place: Path, tiles: Pixels) -> dict[str, float]:
    """Return how far the largest value of each layer's input exceeds its root mean square."""
    import onnx

    names = list(dict.fromkeys(node.input[0] for node in _weighted(model)))
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    looking = onnx.ModelProto()
    looking.CopyFrom(model)
    looking.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    graph = place / source.name
    graph.write_bytes(looking.SerializeToString())
    if data_path(source).is_file():
        shutil.copyfile(data_path(source), data_path(graph))
    session = OnnxSession(graph)
    runs = [session.run({"tiles": tile[None]}) for tile in tiles]
    return {name: max(_peak(run[name]) for run in runs if name in run) for name in names}


def _peak(values: npt.NDArray[Any]) -> float:
    square = float(np.square(values, dtype=np.float64).mean())
    return float(np.abs(values).max()) / math.sqrt(square) if square else 0.0


def _by_outliers(model: ModelProto, peaks: dict[str, float]) -> list[str]:
    """Sort the layers, the worst first: those with the strongest outliers in their input."""
    nodes = sorted(_weighted(model), key=lambda node: -peaks[node.input[0]])
    return [node.name for node in nodes]


def _too_lossy(found: Likeness) -> InvalidInputError:
    return InvalidInputError(
        "export-int8-loss",
        f"In int8 this encoder's features have a cosine of {found.cosine:.4f} with those in float32 "
        f"({found.centred:.4f} about the mean feature), less than {LEAST.cosine} ({LEAST.centred}).",
        hint="Calibrate with more slides of the kind that it will see, or use --precision float16.",
    )

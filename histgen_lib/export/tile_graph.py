"""A tile encoder as an ONNX graph whose own types say in which number format it computes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.errors import InvalidInputError
from histgen_lib.export.external_data import INLINE_BYTES, graph_written
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.models.serving import Precision
from histgen_lib.models.tile_encoder.network import TileNetwork

OPSET = 17

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TypedTiles(nn.Module):
    """Tiles uint8[B, S, S, 3] -> features[B, D] of the type `features`; `network` computes in its own."""

    def __init__(self, network: nn.Module, features: Precision) -> None:
        super().__init__()
        self.network, self._features = network, _DTYPES[features]

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles."""
        found: Tensor = self.network(tiles)
        return found if found.dtype is self._features else found.to(self._features)


def export_tile_encoder(
    network: nn.Module,
    path: Path,
    tile_px: int,
    precision: Precision = "float32",
    features: Precision = "float32",
    *,
    inline_bytes: int = INLINE_BYTES,
) -> Path:
    """Write a network as a graph from uint8[B, tile_px, tile_px, 3] to `features`[B, D]; return `path`.

    The network is converted to `precision`, in place; what it computes in float32 whatever its weights have
    (resizing, normalising) stays float32. Weights beyond `inline_bytes` go to the file `<path>.data`. Raises
    InvalidInputError("export-precision") for a network that is an ONNX file, which has formats of its own.
    """
    own = network.own_graph(tile_px) if isinstance(network, TileNetwork) else None
    if own is not None:
        return _own_graph(own, path, precision, features, inline_bytes)
    typed = TypedTiles(network.to(_DTYPES[precision]), features).eval()
    tiles = torch.zeros(2, tile_px, tile_px, 3, dtype=torch.uint8)
    with graph_written(path, inline_bytes) as written, warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter warns of its successor and of our shape arithmetic.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            typed,
            (tiles,),
            str(written),
            input_names=["tiles"],
            output_names=["features"],
            dynamic_axes={"tiles": {0: "B"}, "features": {0: "B"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return path


def _own_graph(
    graph: bytes, path: Path, precision: Precision, features: Precision, inline_bytes: int
) -> Path:
    if (precision, features) != ("float32", "float32"):
        raise InvalidInputError(
            "export-precision",
            "An encoder that is an ONNX file stays in the number formats of that file.",
            hint="Export it without --precision.",
        )
    with graph_written(path, inline_bytes) as written:
        written.write_bytes(graph)
    return path


def typed_graph(
    folder: ModelFolder, path: Path, precision: Precision, features: Precision = "float16"
) -> Path:
    """Write a model folder's tile encoder as a graph in a number format; return `path`.

    Raises as `load_tile_encoder`.
    """
    tile_px = int(folder.tiling["tile_px"])
    return export_tile_encoder(load_tile_encoder(folder.path), path, tile_px, precision, features)

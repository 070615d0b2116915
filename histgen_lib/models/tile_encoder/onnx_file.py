"""Any ONNX file that encodes tiles, as a tile encoder.

It has one input, uint8[B, S, S, 3] (tiles as they are) or float32[B, 3, S, S] (normalised pixels, for which
preprocessing is put in front), and one output [B, dim]. The file's bytes are the network's only tensor: a
model folder keeps them as it keeps any encoder's weights, and its description names no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.tile_encoder.network import TileNetwork
from histgen_lib.models.tile_encoder.resampling import Pixels
from histgen_lib.models.tile_encoder.row import Preprocessing
from histgen_lib.models.tile_encoder.spec import Spec

_SIDE = 224
"""The side in px of an input whose size the file leaves open."""


class OnnxEncoder(TileNetwork):
    """Tiles uint8[B, S, S, 3] -> features float32[B, dim], by ONNX Runtime on the CPU."""

    licence = "that of the ONNX file"

    def __init__(self, size: int, dim: int, preprocessing: Preprocessing | None) -> None:
        """`size`: of the file in bytes. `preprocessing`: None if the file takes tiles as they are."""
        super().__init__()
        self.dim = dim
        self.pixels = None if preprocessing is None else Pixels(preprocessing)
        self.input_px = None if preprocessing is None else preprocessing.side
        self.file: Tensor
        self.register_buffer("file", torch.zeros(size, dtype=torch.uint8))

    def describe(self) -> dict[str, Any]:
        """See `TileNetwork.describe`."""
        stated = None if self.pixels is None else self.pixels.preprocessing.to_json()
        return {
            "name": "onnx",
            "architecture": "onnx",
            "dim": self.dim,
            "bytes": len(self.file),
            "preprocessing": stated,
        }

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles uint8[B, S, S, 3]; raises as `_Session`, for other sizes too."""
        given = tiles if self.pixels is None else self.pixels(tiles)
        features = self._session.run(given.detach().cpu().numpy())
        return torch.from_numpy(features).to(tiles.device)

    @cached_property
    def _session(self) -> _Session:
        return _Session(self.file.cpu().numpy().tobytes())

    def own_graph(self, tile_px: int) -> bytes:
        """See `TileNetwork.own_graph`."""
        from histgen_lib.models.tile_encoder.onnx_graphs import as_tile_encoder

        return as_tile_encoder(self.file.cpu().numpy().tobytes(), self.pixels, tile_px)


@dataclass
class _Session:
    """An ONNX file, ready to run. Raises FatalError("encoder-onnx") where it is none that encodes tiles."""

    content: bytes

    def __post_init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                self.content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise _unusable(f"ONNX Runtime cannot load it ({type(error).__name__})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise _unusable(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        self.input = inputs[0]

    @property
    def takes_tiles(self) -> bool:
        """Whether its input is tiles as they are, rather than normalised pixels. Raises as the class."""
        kind, shape = self.input.type, self.input.shape
        if kind == "tensor(uint8)" and len(shape) == 4 and shape[3] in {3, "3"}:
            return True
        if kind == "tensor(float)" and len(shape) == 4 and shape[1] == 3:
            return False
        raise _unusable(f"its input is {kind} {shape}")

    @property
    def side(self) -> int | None:
        """The side in px of its input; None if it is left open."""
        side = self.input.shape[2]
        return side if isinstance(side, int) and side > 0 else None

    def run(self, values: Any) -> Any:
        """Encode a batch to float32[B, dim]; one by one where the file's batch size is fixed."""
        fixed = isinstance(self.input.shape[0], int) and self.input.shape[0] != len(values)
        parts = np.split(values, len(values)) if fixed else [values]
        try:
            found = np.concatenate([self._session.run(None, {self.input.name: part})[0] for part in parts])
        except Exception as error:
            raise _unusable(f"it does not take {list(values.shape)}") from error
        if found.ndim != 2:
            raise _unusable(f"its output is {list(found.shape)}")
        return found.astype(np.float32)


def open_file(spec: Spec) -> OnnxEncoder:
    """Read the file that a spec names. Raises FatalError("encoder-onnx"), InvalidInputError as specs do."""
    try:
        content = Path(spec.name).read_bytes()
    except OSError as error:
        raise _unusable(f"{spec.name} cannot be read") from error
    if spec.of_network():
        raise InvalidInputError(
            "encoder-arguments",
            f"An ONNX file takes no {', '.join(spec.of_network())}.",
            hint="Only preprocessing can be stated: side, resize, mean, std, interpolation.",
        )
    session = _Session(content)
    preprocessing = None
    if not session.takes_tiles:
        preprocessing = spec.preprocessing(Preprocessing(session.side or _SIDE))
    network = OnnxEncoder(len(content), _width(session, preprocessing), preprocessing)
    network.file.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return network


def build(_: str, description: Mapping[str, Any]) -> OnnxEncoder:
    """Rebuild from `OnnxEncoder.describe`'s values, without the file's content."""
    stated = description.get("preprocessing")
    preprocessing = Preprocessing.from_json(stated) if stated else None
    return OnnxEncoder(int(description.get("bytes", 0)), int(description.get("dim", 0)), preprocessing)


def _width(session: _Session, preprocessing: Preprocessing | None) -> int:
    side = session.side or (preprocessing.side if preprocessing else _SIDE)
    shape, kind = (
        ((1, side, side, 3), np.uint8) if preprocessing is None else ((1, 3, side, side), np.float32)
    )
    return int(session.run(np.zeros(shape, kind)).shape[1])


def _unusable(why: str) -> FatalError:
    return FatalError(
        "encoder-onnx",
        f"This ONNX file does not encode tiles: {why}.",
        hint="It must be one file that takes uint8[B, S, S, 3] or float32[B, 3, S, S] and yields [B, dim].",
    )

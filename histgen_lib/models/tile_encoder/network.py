"""What every tile encoder is: a network from tiles to features, with its preprocessing inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from histgen_lib.models.tile_encoder.resampling import Pixels
from histgen_lib.models.tile_encoder.row import Pooling, Preprocessing


class TileNetwork(nn.Module, ABC):
    """Tiles uint8[B, H, W, 3] RGB -> features float32[B, dim]; preprocessing is part of the graph.

    `dim`: the features' width. `input_px`: the side to which it resizes tiles; None if it takes them as they
    are. `licence`: that of its weights. A model folder keeps its `state_dict()`.
    """

    dim: int
    input_px: int | None = None
    licence: str = ""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what rebuilds this network: the section "encoder" of a model folder's config.json.

        It has "name", "dim" and, unless that is `DEFAULT`, "architecture".
        """

    def settings(self) -> dict[str, Any]:
        """Return everything but the weights that decides a feature, as JSON has it."""
        return self.describe()

    def state_to_load(self) -> nn.Module:
        """Return the module whose names a weights file uses."""
        return self

    def own_graph(self, tile_px: int) -> bytes | None:
        """Return its ONNX graph, "tiles" uint8[B, tile_px, tile_px, 3] -> "features" float32[B, dim].

        None for networks that torch can trace.
        """
        return None


def pooled(out: Tensor, pooling: Pooling, prefix_tokens: int) -> Tensor:
    """Return features float32[B, dim] of what a backbone yields; see `Pooling`."""
    out = out.float()  # means of half-precision numbers lose digits
    if pooling == "map":
        return out.mean(dim=(2, 3))
    if pooling == "class":
        return out[:, 0]
    if pooling == "own":
        return out
    mean = out[:, prefix_tokens:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([out[:, 0], mean], dim=1)


class BackboneEncoder(TileNetwork):
    """A network that takes normalised pixels, with preprocessing before it and pooling after it."""

    def __init__(
        self,
        architecture: str,
        backbone: nn.Module,
        *,
        dim: int,
        preprocessing: Preprocessing,
        pooling: Pooling,
        prefix_tokens: int = 1,
        licence: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Wrap `backbone`: [B, 3, side, side] -> [B, dim] ("own"), tokens [B, T, D] or a map [B, D, h, w].

        `prefix_tokens`: class token and registers, which precede the patch tokens. `arguments`: what the
        backbone was built with, for the settings.
        """
        super().__init__()
        self.architecture, self.backbone, self.dim = architecture, backbone, dim
        self.pixels, self.input_px = Pixels(preprocessing), preprocessing.side
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        self.licence, self.arguments = licence, dict(arguments or {})

    def describe(self) -> dict[str, Any]:
        """See `TileNetwork.describe`."""
        return {
            "name": self.architecture,
            "architecture": self.architecture,
            "dim": self.dim,
            "preprocessing": self.pixels.preprocessing.to_json(),
        }

    def settings(self) -> dict[str, Any]:
        """See `TileNetwork.settings`."""
        arguments = {name: list(v) if isinstance(v, tuple) else v for name, v in self.arguments.items()}
        return self.describe() | {"pooling": self.pooling, "arguments": arguments}

    def state_to_load(self) -> nn.Module:
        """See `TileNetwork.state_to_load`."""
        return self.backbone

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float32[B, dim] of tiles uint8[B, H, W, 3]."""
        weights = next(self.backbone.parameters(), None)
        pixels: Tensor = self.pixels(tiles)
        return self._pooled(pixels if weights is None else pixels.to(weights.dtype))

    def _pooled(self, pixels: Tensor) -> Tensor:
        out = self.backbone(pixels)
        return pooled(out[-1] if isinstance(out, list | tuple) else out, self.pooling, self.prefix_tokens)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("mean", "std"):  # model folders of before kept the constants among the weights
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

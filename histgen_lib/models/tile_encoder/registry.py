"""Tile encoders by architecture: training, export and serving get every encoder here.

"histgen-small"   the encoder shipped with histgen; weights in a model folder
"timm:<name>"     any timm image model, from a local weights file; nothing is downloaded

An encoder carries its own preprocessing, so that none is used with another's. To add an architecture, write
a module beside this one with a function `build(name, description) -> TileNetwork`, and list it in
`ARCHITECTURES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_file

ARCHITECTURES = {"histgen-small": "small", "timm": "timm_models"}
"""Modules beside this one, by the part of an architecture's name before ":"."""
DEFAULT = "histgen-small"
"""The architecture of a description that names none."""


class TileNetwork(nn.Module, ABC):
    """Tiles uint8[B, H, W, 3] RGB -> features float32[B, dim]; preprocessing is part of the graph.

    `dim`: the features' width. `input_px`: the side to which it resizes tiles; None if it takes them as they
    are. `licence`: that of its weights.
    """

    dim: int
    input_px: int | None = None
    licence: str = ""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what rebuilds this network: the section "encoder" of a model folder's config.json.

        It has "name", "dim" and, unless that is `DEFAULT`, "architecture".
        """

    def state_to_load(self) -> nn.Module:
        """Return the module whose names a weights file uses."""
        return self


@dataclass(frozen=True, eq=False)
class BuiltEncoder:
    """A tile encoder ready to run, in evaluation mode, with the SHA-256 of its weights file."""

    network: TileNetwork
    name: str
    sha256: str

    @property
    def dim(self) -> int:
        """Width of its features."""
        return self.network.dim

    @property
    def licence(self) -> str:
        """Licence of its weights."""
        return self.network.licence


def new_network(description: Mapping[str, Any]) -> TileNetwork:
    """Build the network that a description names, with fresh weights.

    Raises InvalidInputError("encoder-unknown"), FatalError("encoder-needs-timm").
    """
    architecture = str(description.get("architecture", DEFAULT))
    family, _, name = architecture.partition(":")
    if family not in ARCHITECTURES or bool(name) != (family == "timm"):
        raise InvalidInputError(
            "encoder-unknown",
            f"There is no tile encoder {architecture!r}.",
            hint="Use histgen-small or timm:<model name>.",
        )
    build: Callable[[str, Mapping[str, Any]], TileNetwork] = import_module(
        f"{__package__}.{ARCHITECTURES[family]}"
    ).build
    return build(name, description)


def build_encoder(
    architecture: str, weights: Path, description: Mapping[str, Any] | None = None
) -> BuiltEncoder:
    """Build an encoder with the weights of a local file (.safetensors, or .pth of tensors only).

    Raises as `new_network`, and FatalError("encoder-weights") when the file cannot be read or does not fit.
    """
    network = new_network({**(description or {}), "architecture": architecture})
    load_weights(network, architecture, weights)
    return BuiltEncoder(network.eval(), architecture, sha256_file(weights))


def load_weights(network: TileNetwork, name: str, weights: Path) -> None:
    """Load a weights file into a network. Raises FatalError("encoder-weights")."""
    try:
        tensors = load_file(weights) if weights.suffix == ".safetensors" else _load_pickle(weights)
        network.state_to_load().load_state_dict(tensors)
    except Exception as error:  # safetensors, pickle and torch each raise their own kinds
        raise FatalError(
            "encoder-weights",
            f"{weights.name} does not hold weights of {name} ({str(error).splitlines()[0]}).",
            hint="Give the local weights file of exactly this encoder.",
        ) from error


def _load_pickle(weights: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return tensors

"""A network that a function of one's own makes: "python:<module>:<function>".

A model folder may name such an encoder, but never has code run: only what the user of a command named with
`find_encoder` is imported, so that a folder from elsewhere cannot choose what runs here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.tile_encoder.network import BackboneEncoder, TileNetwork
from histgen_lib.models.tile_encoder.row import Preprocessing
from histgen_lib.models.tile_encoder.spec import Spec

_named: set[str] = set()
"""What users named in this process."""


class OwnEncoder(TileNetwork):
    """A `TileNetwork` of one's own, described by the function that makes it."""

    def __init__(self, text: str, network: TileNetwork) -> None:
        super().__init__()
        self.text, self.network = text, network
        self.dim, self.input_px, self.licence = network.dim, network.input_px, network.licence

    def describe(self) -> dict[str, Any]:
        """See `TileNetwork.describe`."""
        return {"name": self.text, "architecture": self.text, "dim": self.dim}

    def settings(self) -> dict[str, Any]:
        """See `TileNetwork.settings`."""
        return self.describe() | {"own": self.network.settings()}

    def state_to_load(self) -> nn.Module:
        """See `TileNetwork.state_to_load`."""
        return self.network.state_to_load()

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float32[B, dim] of tiles uint8[B, H, W, 3]."""
        features: Tensor = self.network(tiles)
        return features


def allow(spec: Spec) -> None:
    """Let `build` import what a user named."""
    _named.add(spec.name)


def build(spec: Spec, described: Mapping[str, Any]) -> TileNetwork:
    """Call the function with the spec's arguments and wrap what it makes.

    A `TileNetwork` is used as it is; any other module takes normalised pixels float[B, 3, side, side] and
    yields [B, dim]. Raises FatalError("encoder-own-code") unless it was allowed, InvalidInputError
    ("encoder-unknown", "encoder-arguments").
    """
    if spec.name not in _named:
        raise FatalError(
            "encoder-own-code",
            f"The model's tile encoder is made by code of its own, {spec.name}, which is not run unasked.",
            hint=f"Name it yourself with --encoder python:{spec.name}, if you trust it.",
        )
    made = _call(spec)
    if isinstance(made, TileNetwork):
        return OwnEncoder(spec.text, made)
    stated = described.get("preprocessing")
    preprocessing = spec.preprocessing(Preprocessing.from_json(stated) if stated else Preprocessing(224))
    return BackboneEncoder(
        spec.text,
        made,
        dim=_width(made, preprocessing.side, spec),
        preprocessing=preprocessing,
        pooling="own",
        licence="that of its own code",
        arguments=spec.of_network(),
    )


def _call(spec: Spec) -> nn.Module:
    module, _, function = spec.name.rpartition(":")
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            "encoder-unknown",
            f"The function {function} of the module {module} cannot be imported ({error}).",
            hint="Install the module, or name its folder in PYTHONPATH.",
        ) from error
    try:
        made = make(**spec.of_network())
    except TypeError as error:
        raise _unfit(spec, str(error)) from error
    if not isinstance(made, nn.Module):
        raise _unfit(spec, f"it returns a {type(made).__name__}, not a torch module")
    return made


def _width(network: nn.Module, side: int, spec: Spec) -> int:
    weights = next(network.parameters(), torch.zeros(()))
    training = network.training
    with torch.inference_mode():
        out = network.eval()(torch.zeros(1, 3, side, side, dtype=weights.dtype, device=weights.device))
    network.train(training)
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise _unfit(spec, "it does not yield one vector a tile")
    return int(out.shape[1])


def _unfit(spec: Spec, why: str) -> InvalidInputError:
    return InvalidInputError(
        "encoder-arguments",
        f"{spec.text} makes no tile encoder ({why}).",
        hint="The function returns a TileNetwork, or a module from pixels [B, 3, side, side] to [B, dim].",
    )

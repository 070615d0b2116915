"""Tile encoders by name: training, export and serving get every encoder here.

"histgen-small"                 the encoder shipped with histgen; weights in a model folder
a row's name                    a published encoder (`rows.py`), from its publisher's weights file
"timm:<model>"                  any image model of timm
"onnx:<file>"                   any ONNX file that encodes tiles
"python:<module>:<function>"    one's own network

Names take arguments: "uni?img_size=448". Nothing is downloaded. An encoder carries its own preprocessing, so
that none is used with another's. To publish one more encoder, add a row; to add an architecture, write a
module beside this one with a function `build(name, description) -> TileNetwork`, and list it in
`ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from histgen_lib.errors import FatalError
from histgen_lib.files import json_digest, sha256_file
from histgen_lib.models.tile_encoder import onnx_file, own_code, published, timm_models
from histgen_lib.models.tile_encoder import spec as specs
from histgen_lib.models.tile_encoder import weights as files
from histgen_lib.models.tile_encoder.network import BackboneEncoder, TileNetwork
from histgen_lib.models.tile_encoder.row import Source
from histgen_lib.models.tile_encoder.rows import ROWS
from histgen_lib.models.tile_encoder.spec import Spec

__all__ = [
    "ARCHITECTURES",
    "DEFAULT",
    "BuiltEncoder",
    "TileNetwork",
    "build_encoder",
    "find_encoder",
    "load_weights",
    "new_network",
]

ARCHITECTURES = {"histgen-small": "small", "onnx": "onnx_file"}
"""Modules beside this one, by architecture."""
_BUILDERS: Mapping[str, Callable[[Spec, Mapping[str, Any]], TileNetwork]] = {
    "row": published.build,
    "timm": timm_models.build,
    "python": own_code.build,
}
DEFAULT = "histgen-small"
"""The architecture of a description that names none."""


@dataclass(frozen=True, eq=False)
class BuiltEncoder:
    """A tile encoder ready to run, in evaluation mode.

    name             what the user called it
    sha256           of its weights file, of its tensors if they are of no file. A model folder keeps this
                     digest beside its own copy of the weights, so that bags made with either agree
    settings         what else decides a feature: architecture, arguments, preprocessing, pooling, …
    tile_px, mpp     the tiles that its authors use; None where nothing is known
    """

    network: TileNetwork
    name: str
    sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tile_px: int | None = None
    mpp: float | None = None

    @property
    def settings_sha256(self) -> str:
        """Digest of the settings, as bags have it."""
        return json_digest(self.settings)

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

    Raises InvalidInputError ("encoder-unknown", "encoder-arguments"), FatalError ("encoder-needs-timm",
    "encoder-own-code").
    """
    return _network(_parsed(str(description.get("architecture", DEFAULT))), description)


def find_encoder(spec: str, weights: Path | None = None, *, seed_fresh: bool = False) -> BuiltEncoder:
    """Build the encoder that a user names, with the weights of a local file.

    weights      a .safetensors file, or a torch file of tensors; without it, the file that is published if
                 the Hugging Face cache of this machine has it
    seed_fresh   fresh weights, drawn with seed 0, rather than published ones: for trials and tests

    Raises as `new_network`, and FatalError: "encoder-weights-missing", "encoder-weights", "encoder-onnx".
    """
    parsed = _parsed(spec)
    if parsed.kind == "python":
        own_code.allow(parsed)
    if parsed.kind == "onnx":
        network: TileNetwork = onnx_file.open_file(parsed)
        digest = sha256_file(Path(parsed.name))
    elif seed_fresh or (parsed.kind == "python" and weights is None):
        network, digest = _fresh(parsed)
    else:
        network, digest = _loaded(parsed, weights)
    return _built(network, parsed, digest)


def build_encoder(
    architecture: str, weights: Path, description: Mapping[str, Any] | None = None
) -> BuiltEncoder:
    """Build an encoder with the weights of a local file (.safetensors, or .pth of tensors only).

    Raises as `new_network`, and FatalError("encoder-weights") when the file cannot be read or does not fit.
    """
    network = new_network({**(description or {}), "architecture": architecture})
    load_weights(network, architecture, weights)
    return BuiltEncoder(network.eval(), architecture, sha256_file(weights), network.settings())


def load_weights(network: TileNetwork, name: str, weights: Path) -> None:
    """Load a weights file into a network. Raises FatalError("encoder-weights")."""
    row = ROWS.get(name.partition("?")[0])
    files.load_weights(network.state_to_load(), name, weights, row.names if row else "timm")


def _parsed(spec: str) -> Spec:
    return Spec(spec, "own", spec, {}) if spec in ARCHITECTURES else specs.parse(spec)


def _network(spec: Spec, description: Mapping[str, Any]) -> TileNetwork:
    if spec.kind == "own":
        build: Callable[[str, Mapping[str, Any]], TileNetwork] = import_module(
            f"{__package__}.{ARCHITECTURES[spec.name]}"
        ).build
        return build(spec.name, description)
    if spec.kind not in _BUILDERS:
        raise specs.unknown(spec.text)
    return _BUILDERS[spec.kind](spec, description)


def _built(network: TileNetwork, spec: Spec, digest: str) -> BuiltEncoder:
    row = ROWS.get(spec.name) if spec.kind == "row" else None
    tile_px, mpp = (row.tile_px, row.mpp) if row else (None, None)
    settings = network.settings() | {"tile_px": tile_px, "mpp": mpp}
    return BuiltEncoder(network.eval(), spec.text, digest, settings, tile_px, mpp)


def _fresh(spec: Spec) -> tuple[TileNetwork, str]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _network(spec, {})
    return network, files.state_digest(network)


def _loaded(spec: Spec, weights: Path | None) -> tuple[TileNetwork, str]:
    with torch.device("cpu" if spec.kind == "python" else "meta"):
        network = _network(spec, {})
    path = weights or files.cached(_source(network, spec), spec.text, network.licence)
    load_weights(network, spec.text, path)
    if any(value.is_meta for value in (*network.parameters(), *network.buffers())):
        network = _network(spec, {})  # it computes buffers that no file holds
        load_weights(network, spec.text, path)
    return network, sha256_file(path)


def _source(network: TileNetwork, spec: Spec) -> Source:
    if spec.kind == "row":
        return ROWS[spec.name].source
    if spec.kind == "own":
        raise FatalError(
            "encoder-weights-missing",
            f"The weights of {spec.name} are in model folders.",
            hint=f"Name a model folder, or write {spec.name}=<tile_encoder.safetensors>.",
        )
    backbone = network.backbone if isinstance(network, BackboneEncoder) else None
    source = timm_models.source_of(backbone)
    if source is None:
        raise FatalError(
            "encoder-weights-missing",
            f"timm publishes no weights of {spec.name}.",
            hint=f"Write {spec.text}=<file>.",
        )
    return source

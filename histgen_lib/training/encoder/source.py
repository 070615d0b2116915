"""Tile encoders as a person names them on the command line: published ones by name, own ones by folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from histgen_lib.bags import Maker
from histgen_lib.files import json_digest
from histgen_lib.models.folder import settings_digest
from histgen_lib.models.tile_encoder.registry import BuiltEncoder, TileNetwork, find_encoder
from histgen_lib.slides import TilingSettings
from histgen_lib.training.encoder.folder import CONFIG, EncoderFolder, open_encoder

_NAMED = re.compile(r"(?P<name>[^?=]+(\?\w+=[^=&]*(&\w+=[^=&]*)*)?)(=(?P<weights>.+))?")
"""NAME, NAME=WEIGHTS, NAME?argument=value&…=WEIGHTS."""


@dataclass(frozen=True)
class EncoderChoice:
    """A tile encoder to open: `name` (see `find_encoder`) with its `weights`, or a `folder`.

    `tile_px`, `mpp` replace the encoder's own tiles. It can be sent to another process.
    """

    name: str = ""
    weights: Path | None = None
    folder: Path | None = None
    tile_px: int | None = None
    mpp: float | None = None

    def open(self) -> OpenedEncoder:
        """Open it; one without a folder is loaded at once.

        Raises as `open_encoder` and `find_encoder`, and InvalidInputError("tiling-settings-invalid").
        """
        if self.folder is not None:
            return self._of_folder(open_encoder(self.folder))
        built = find_encoder(self.name, self.weights)
        own = TilingSettings()
        own = replace(own, tile_px=built.tile_px or own.tile_px, mpp=built.mpp or own.mpp)
        return self._of_built(built, self._tiling(own))

    def _of_folder(self, folder: EncoderFolder) -> OpenedEncoder:
        tiling = self._tiling(folder.tiling)
        settings = folder.settings
        if tiling != folder.tiling:
            settings = settings_digest(folder.description, asdict(tiling))
        maker = Maker(folder.name, folder.sha256, int(folder.description["dim"]), settings)
        return OpenedEncoder(maker, tiling, folder.description, folder=folder)

    def _of_built(self, built: BuiltEncoder, tiling: TilingSettings) -> OpenedEncoder:
        decides = {**built.settings, "tile_px": tiling.tile_px, "mpp": float(tiling.mpp)}
        maker = Maker(_public(built.name), built.sha256, built.dim, json_digest(decides))
        description = built.network.describe() | {"licence": built.licence}
        return OpenedEncoder(maker, tiling, description, built=built.network)

    def _tiling(self, own: TilingSettings) -> TilingSettings:
        return replace(
            own,
            tile_px=own.tile_px if self.tile_px is None else self.tile_px,
            mpp=own.mpp if self.mpp is None else self.mpp,
        )


@dataclass(frozen=True, eq=False)
class OpenedEncoder:
    """A tile encoder to encode with: what its bags say of it, and the tiles it takes.

    `description` rebuilds its network. Its network is in `folder`, or `built` already.
    """

    maker: Maker
    tiling: TilingSettings
    description: Mapping[str, Any]
    folder: EncoderFolder | None = None
    built: TileNetwork | None = None

    def load(self) -> TileNetwork:
        """Return the network, in evaluation mode. Raises FatalError("training-encoder-unreadable")."""
        if self.built is not None:
            return self.built
        assert self.folder is not None
        return self.folder.load()

    @cached_property
    def section(self) -> dict[str, Any]:
        """What a model folder's config.json says about it."""
        described = {name: value for name, value in self.description.items() if name != "file_sha256"}
        return described | {
            "name": self.maker.name,
            "sha256": self.maker.sha256,
            "dim": self.maker.width,
            "settings_sha256": self.maker.settings,
        }


def _public(name: str) -> str:
    """Return an encoder's name for bags and reports: of an ONNX file no folders, which are this machine's."""
    kind, colon, file = name.partition(":")
    return f"{kind}:{Path(file).name}" if colon and kind == "onnx" else name


def choose_encoder(text: str, *, tile_px: int | None = None, mpp: float | None = None) -> EncoderChoice:
    """Read what a person wrote: a folder, or NAME[=WEIGHTS].

    A folder has a config.json; what has a slash, but neither a colon nor weights, is meant as one. In
    "onnx:FILE" an equals sign belongs to the file's name.
    """
    path = Path(text)
    found = _NAMED.fullmatch(text)
    if (path / CONFIG).is_file() or found is None or ("/" in found["name"] and ":" not in found["name"]):
        return EncoderChoice(folder=path, tile_px=tile_px, mpp=mpp)
    if text.startswith("onnx:"):
        return EncoderChoice(text, tile_px=tile_px, mpp=mpp)
    weights = Path(found["weights"]) if found["weights"] else None
    return EncoderChoice(found["name"], weights, tile_px=tile_px, mpp=mpp)

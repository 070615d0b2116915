"""Tile pixels in, tile feature out: the small network shipped with histgen and a registry for others."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histgen_lib.models.tile_encoder.network import TileEncoder

__all__ = ["TileEncoder"]


def __getattr__(name: str) -> Any:
    if name != "TileEncoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.network").TileEncoder

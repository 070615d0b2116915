"""Tile pixels in, tile feature out: the small network shipped with histgen, and a registry of encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.models.tile_encoder.small import TileEncoder

__all__ = ["TileEncoder"]

__getattr__ = lazily(__name__, {"small": "TileEncoder"})

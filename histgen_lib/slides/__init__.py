"""Pixels: opening a whole-slide image, finding its tissue, and cutting it into tiles at one scale.

OpenSlide and OpenCV are loaded when a name is first taken from here, not when this package is imported. Label
and macro images carry names and accession numbers; nothing in this package can return them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histgen_lib.slides.grid import plan_grid
    from histgen_lib.slides.quality import QualityReport, assess_quality
    from histgen_lib.slides.settings import Level, TileBatch, TileGrid, TilingSettings
    from histgen_lib.slides.slide import Slide, open_slide
    from histgen_lib.slides.tissue import TissueMap, find_tissue

_HOMES = {
    "Level": "settings",
    "QualityReport": "quality",
    "Slide": "slide",
    "TileBatch": "settings",
    "TileGrid": "settings",
    "TilingSettings": "settings",
    "TissueMap": "tissue",
    "assess_quality": "quality",
    "find_tissue": "tissue",
    "open_slide": "slide",
    "plan_grid": "grid",
}

__all__ = [
    "Level",
    "QualityReport",
    "Slide",
    "TileBatch",
    "TileGrid",
    "TilingSettings",
    "TissueMap",
    "assess_quality",
    "find_tissue",
    "open_slide",
    "plan_grid",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

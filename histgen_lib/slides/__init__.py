"""Pixels: opening a whole-slide image, finding its tissue, and cutting it into tiles at one scale.

OpenSlide and OpenCV are loaded when a name is first taken from here, not when this package is imported. Label
and macro images show names and accession numbers; nothing in this package can return them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.slides.grid import plan_grid
    from histgen_lib.slides.quality import QualityReport, assess_quality
    from histgen_lib.slides.settings import Level, TileBatch, TileGrid, TilingSettings
    from histgen_lib.slides.slide import Slide, open_slide
    from histgen_lib.slides.tissue import TissueMap, find_tissue

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

__getattr__ = lazily(
    __name__,
    {
        "grid": "plan_grid",
        "quality": "QualityReport assess_quality",
        "settings": "Level TileBatch TileGrid TilingSettings",
        "slide": "Slide open_slide",
        "tissue": "TissueMap find_tissue",
    },
)

"""Is this scan good enough to draft from? Measurements and flags, with their thresholds stated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from histgen_lib.slides.settings import TileGrid
from histgen_lib.slides.slide import Slide


@dataclass(frozen=True)
class QualityReport:
    """Measurements of one slide and the flags they raise."""

    flags: tuple[str, ...]
    tissue_mm2: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "flags": list(self.flags)}


def assess_quality(slide: Slide, grid: TileGrid) -> QualityReport:
    """Measure the slide."""
    area = float(grid.mask.sum()) * (grid.mask_downsample * slide.mpp / 1000) ** 2
    return QualityReport(("little-tissue",) if area < 0.5 else (), area)

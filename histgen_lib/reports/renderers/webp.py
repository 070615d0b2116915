"""thumbnail.webp and heatmap.webp: a slide, and where on it the evidence for the whole draft lies."""

from __future__ import annotations

from collections.abc import Sequence

from histgen_lib.reports.pictures import HeatCells, Pictures, heatmap_webp, overall
from histgen_lib.reports.record import DraftReport


def thumbnails(draft: DraftReport, pictures: Sequence[Pictures]) -> list[bytes | None]:
    """Return each slide's thumbnail, made when the slide was scanned."""
    return [shown.thumbnail for shown in pictures]


def heatmaps(draft: DraftReport, pictures: Sequence[Pictures]) -> list[bytes | None]:
    """Draw each slide's heatmap; the slides of a case share one colour scale."""
    slides = [part.slide for part in draft.slides] or [draft.provenance.slide]
    means = [overall(draft, shown.weights) for shown in pictures]
    peak = max(float(mean.max(initial=0)) for mean in means)
    return [
        heatmap_webp(HeatCells(shown.xy, shown.span_px, slide.size_px).heatmap(mean, peak))
        if slide.size_px
        else None
        for slide, shown, mean in zip(slides, pictures, means, strict=True)
    ]

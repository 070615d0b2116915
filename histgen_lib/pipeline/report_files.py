"""The files of one report as bytes, in the order in which they are stored: the last says that all are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histgen_lib.pipeline.keys import DRAFT_HTML, DRAFT_JSON, DRAFT_TEXT, HEATMAP, THUMBNAIL
from histgen_lib.pipeline.made import HTML, JSON, TEXT, WEBP
from histgen_lib.reports.pictures import HeatCells, Pictures, heatmap_webp
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.render_html import to_html
from histgen_lib.reports.render_json import to_json
from histgen_lib.reports.render_text import to_text


@dataclass(frozen=True)
class ReportFile:
    """One file: `name` relative to its report; a case's pictures lie in a folder for each slide."""

    name: str
    data: bytes
    content_type: str


def report_files(draft: DraftReport, pictures: Sequence[Pictures]) -> list[ReportFile]:
    """Render a draft; `pictures`: of the slide, or of each slide of the case in the draft's order."""
    return [
        *_picture_files(draft, pictures),
        ReportFile(DRAFT_TEXT, to_text(draft).encode(), TEXT),
        ReportFile(DRAFT_HTML, to_html(draft, *pictures).encode(), HTML),
        ReportFile(DRAFT_JSON, to_json(draft), JSON),
    ]


def _picture_files(draft: DraftReport, pictures: Sequence[Pictures]) -> list[ReportFile]:
    slides = [(f"{part.slide_id}/", part.slide) for part in draft.slides] or [("", draft.provenance.slide)]
    means = [
        shown.weights.mean(axis=0) if len(shown.weights) else np.zeros(len(shown.xy)) for shown in pictures
    ]
    peak = max(float(mean.max(initial=0)) for mean in means)
    files = []
    for (folder, slide), shown, mean in zip(slides, pictures, means, strict=True):
        if shown.thumbnail is not None:
            files.append(ReportFile(folder + THUMBNAIL, shown.thumbnail, WEBP))
        if slide.size_px is not None:
            heat = HeatCells(shown.xy, shown.span_px, slide.size_px).heatmap(mean, peak)
            files.append(ReportFile(folder + HEATMAP, heatmap_webp(heat), WEBP))
    return files

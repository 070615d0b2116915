"""The files of one report as bytes, in the order in which they are stored: the last says that all are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from histgen_lib.catalogue.integrity import StoredFile
from histgen_lib.catalogue.keys import DRAFT_HTML, DRAFT_JSON, DRAFT_TEXT, HEATMAP, THUMBNAIL
from histgen_lib.reports.pictures import HeatCells, Pictures, heatmap_webp, overall
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import to_json
from histgen_lib.reports.renderers.html import to_html
from histgen_lib.reports.renderers.text import to_text
from histgen_lib.storage import HTML, JSON, TEXT, WEBP


def report_files(
    draft: DraftReport, pictures: Sequence[Pictures], key: Callable[[str], str]
) -> list[StoredFile]:
    """Render a draft; `pictures`: of the slide, or of each slide of the case in the draft's order.

    `key` gives the object's key for a file's name; a case's pictures lie in a folder for each slide.
    """
    return [
        *_picture_files(draft, pictures, key),
        StoredFile(key(DRAFT_TEXT), to_text(draft).encode(), TEXT),
        StoredFile(key(DRAFT_HTML), to_html(draft, *pictures).encode(), HTML),
        StoredFile(key(DRAFT_JSON), to_json(draft), JSON),
    ]


def _picture_files(
    draft: DraftReport, pictures: Sequence[Pictures], key: Callable[[str], str]
) -> list[StoredFile]:
    slides = [(f"{part.slide_id}/", part.slide) for part in draft.slides] or [("", draft.provenance.slide)]
    means = [overall(draft, one.weights) for one in pictures]
    peak = max(float(mean.max(initial=0)) for mean in means)
    files = []
    for (folder, slide), shown, mean in zip(slides, pictures, means, strict=True):
        if shown.thumbnail is not None:
            files.append(StoredFile(key(folder + THUMBNAIL), shown.thumbnail, WEBP))
        if slide.size_px is not None:
            heat = HeatCells(shown.xy, shown.span_px, slide.size_px).heatmap(mean, peak)
            files.append(StoredFile(key(folder + HEATMAP), heatmap_webp(heat), WEBP))
    return files

"""The files of a report as a table: name, media type, when each is made, and its renderer.

A new file takes one module in this package, with a function of a draft and its pictures, and one entry in
RENDERINGS. The table is light to import: a renderer is loaded when it is first used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from histgen_lib.reports.pictures import Pictures
    from histgen_lib.reports.record import DraftReport

When = Literal["drafted", "signed"]

DRAFT_JSON, DRAFT_TEXT, DRAFT_HTML = "draft.json", "draft.txt", "draft.html"
SIMILAR = "similar.json"
THUMBNAIL, HEATMAP = "thumbnail.webp", "heatmap.webp"


@dataclass(frozen=True)
class RenderedFile:
    """One file of a report; `name` is its path in the report's folder."""

    name: str
    data: bytes
    media_type: str


@dataclass(frozen=True)
class Rendering:
    """One kind of file in a report.

    `renderer`: "module:function" in this package. The function takes the draft and the pictures of its
    slides, in the draft's order, and returns the bytes of the file; with `each_slide`, a list of the bytes
    for each slide, None for a slide without the file. Each slide of a case has a folder for its files.
    `needs`: the field of the draft without which there is no such file.
    """

    name: str
    media_type: str
    renderer: str
    when: When = "drafted"
    each_slide: bool = False
    needs: str = ""

    def files(self, draft: DraftReport, pictures: Sequence[Pictures]) -> Iterator[RenderedFile]:
        """Render the draft."""
        if not self.is_of(draft):
            return
        module, _, function = self.renderer.partition(":")
        rendered = getattr(import_module(f"{__name__}.{module}"), function)(draft, pictures)
        for name, data in zip(self.names(draft), rendered if self.each_slide else [rendered], strict=True):
            if data is not None:
                yield RenderedFile(name, data, self.media_type)

    def is_of(self, draft: DraftReport) -> bool:
        """Whether a draft has this file."""
        return not self.needs or getattr(draft, self.needs) is not None

    def names(self, draft: DraftReport) -> list[str]:
        """Name the files, as paths in the report's folder."""
        if not self.each_slide:
            return [self.name] if self.is_of(draft) else []
        return [f"{part.slide_id}/{self.name}" for part in draft.slides] or [self.name]


RENDERINGS = (
    Rendering(SIMILAR, "application/json", "similar_json:render", needs="similar"),
    Rendering(THUMBNAIL, "image/webp", "webp:thumbnails", each_slide=True),
    Rendering(HEATMAP, "image/webp", "webp:heatmaps", each_slide=True),
    Rendering(DRAFT_TEXT, "text/plain; charset=utf-8", "text:render"),
    Rendering(DRAFT_HTML, "text/html; charset=utf-8", "html:render"),
    Rendering(DRAFT_JSON, "application/json", "draft_json:render"),
)
"""In the order in which the files are written: draft.json is last and shows that all are there."""


def render(
    draft: DraftReport, pictures: Sequence[Pictures], *, slide_files: bool = True
) -> list[RenderedFile]:
    """Render all files of a draft, in order; `slide_files`: those of each slide as well.

    `pictures`: of the slide, or of each slide of the case in the draft's order.
    """
    chosen = [one for one in RENDERINGS if one.when == "drafted" and (slide_files or not one.each_slide)]
    return [file for one in chosen for file in one.files(draft, pictures)]


def file_names(draft: DraftReport | None) -> list[str]:
    """Name all files of a draft that has pictures of its slides, in order.

    None: a draft that cannot be read; then those that every report has.
    """
    drafted = [one for one in RENDERINGS if one.when == "drafted"]
    if draft is None:
        return [one.name for one in drafted if not one.each_slide and not one.needs]
    return [name for one in drafted for name in one.names(draft)]

"""What a draft report is rendered to, and the names of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histgen_lib.reports.record import DraftReport

PICTURE_FILES = ("thumbnail.webp", "heatmap.webp")
"""Pictures of each slide of a report."""
REPORT_FILES = ("draft.txt", "draft.html", "draft.json")
"""The other files of a report in the order in which they are stored: draft.json says that all are there."""


def file_names(draft: DraftReport) -> list[str]:
    """Name the files of a draft that has pictures of its slides, draft.json last.

    The pictures of a case's slides lie in a folder for each slide.
    """
    folders = [f"{part.slide_id}/" for part in draft.slides] or [""]
    return [*(folder + name for folder in folders for name in PICTURE_FILES), *REPORT_FILES]

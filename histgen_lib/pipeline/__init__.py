"""The jobs: scan→bag, bag→draft, and both for one slide with its files.

Nothing here knows of queues or services; the command line and, later, the workers call the same functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.pipeline.calibration import Calibration
    from histgen_lib.pipeline.draft.draft import bag_to_draft
    from histgen_lib.pipeline.model import ReportModel, load_model
    from histgen_lib.pipeline.one_slide import Result, report_bag, report_slide
    from histgen_lib.pipeline.progress import Progress, silent
    from histgen_lib.pipeline.scan.scan import Scan, scan_to_bag

__all__ = [
    "Calibration",
    "Progress",
    "ReportModel",
    "Result",
    "Scan",
    "bag_to_draft",
    "load_model",
    "report_bag",
    "report_slide",
    "scan_to_bag",
    "silent",
]

__getattr__ = lazily(
    __name__,
    {
        "calibration": "Calibration",
        "draft.draft": "bag_to_draft",
        "one_slide": "Result report_bag report_slide",
        "model": "ReportModel load_model",
        "progress": "Progress silent",
        "scan.scan": "Scan scan_to_bag",
    },
)

"""The jobs: slide → bag, bag → draft, and both for one slide with its files.

Nothing here knows of queues or services; the command line and the workers call the same functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.pipeline.draft.drafter import Drafter
    from histgen_lib.pipeline.job import Progress, silent
    from histgen_lib.pipeline.model import ReportModel, load_model
    from histgen_lib.pipeline.one_slide import Result, report_bag, report_slide
    from histgen_lib.pipeline.reliability import Calibration
    from histgen_lib.pipeline.scan.scanner import Scan, Scanner

__all__ = [
    "Calibration",
    "Drafter",
    "Progress",
    "ReportModel",
    "Result",
    "Scan",
    "Scanner",
    "load_model",
    "report_bag",
    "report_slide",
    "silent",
]

__getattr__ = lazily(
    __name__,
    {
        "draft.drafter": "Drafter",
        "model": "ReportModel load_model",
        "one_slide": "Result report_bag report_slide",
        "reliability": "Calibration",
        "scan.scanner": "Scan Scanner",
        "job": "Progress silent",
    },
)

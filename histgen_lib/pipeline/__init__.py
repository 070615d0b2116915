"""The jobs: scan→bag, bag→draft, and both for one slide with its files.

Nothing here knows of queues or services; the command line and, later, the workers call the same functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histgen_lib.pipeline.calibration import Calibration
    from histgen_lib.pipeline.draft import bag_to_draft
    from histgen_lib.pipeline.job import Result, report_bag, report_slide
    from histgen_lib.pipeline.model import ReportModel, load_model
    from histgen_lib.pipeline.progress import Progress, silent
    from histgen_lib.pipeline.scan import Scan, scan_to_bag

_WHERE = {
    "Calibration": "calibration",
    "Progress": "progress",
    "ReportModel": "model",
    "Result": "job",
    "Scan": "scan",
    "bag_to_draft": "draft",
    "load_model": "model",
    "report_bag": "job",
    "report_slide": "job",
    "scan_to_bag": "scan",
    "silent": "progress",
}

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


def __getattr__(name: str) -> object:
    """Import a job's module when it is first asked for (PEP 562): this package itself stays light."""
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)

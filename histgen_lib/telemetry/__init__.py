"""What the software says about itself while it runs: metrics for Prometheus, log lines as JSON."""

from __future__ import annotations

from histgen_lib.telemetry.log import Logger, LogSettings, bound, configure_logging, get_logger, log_settings
from histgen_lib.telemetry.metrics import add_measures, exposition

__all__ = [
    "LogSettings",
    "Logger",
    "add_measures",
    "bound",
    "configure_logging",
    "exposition",
    "get_logger",
    "log_settings",
]

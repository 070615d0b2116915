"""What a running process reports of itself: metrics for Prometheus, JSON log lines, traces."""

from __future__ import annotations

from histgen_lib.telemetry.log import Logger, LogSettings, bound, configure_logging, get_logger, log_settings
from histgen_lib.telemetry.metrics import add_measures, exposition
from histgen_lib.telemetry.tracing import configure_tracing, flush_tracing, record_span

__all__ = [
    "LogSettings",
    "Logger",
    "add_measures",
    "bound",
    "configure_logging",
    "configure_tracing",
    "exposition",
    "flush_tracing",
    "get_logger",
    "log_settings",
    "record_span",
]

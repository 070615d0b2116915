"""Traces are exported to the configured collector, or not at all."""

from __future__ import annotations

import sys

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.telemetry import configure_tracing, record_span


def test_a_configured_collector_is_refused_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(FatalError) as error:
        configure_tracing("tiler", "1", "http://127.0.0.1:4318")

    assert error.value.code == "tracing-missing"


def test_without_a_collector_opentelemetry_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    configure_tracing("tiler", "1", None)
    record_span("process", "slide.scanned", began_at=1.0, ended_at=2.0)

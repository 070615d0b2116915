"""Spans from scan to draft, exported to an OpenTelemetry collector if one is configured.

An event's W3C traceparent names the span that published it. So a span's id is known before the span ends: it
is taken from the published event, and the service that processes that event exports a child span. Spans hold
ids, codes and numbers, never paths or text.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from histgen_lib.errors import FatalError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NS = 1_000_000_000
_EXPORT_S = 5.0
"""How long the collector may take to accept a batch."""

_next_ids = threading.local()
_in_force: list[TracerProvider] = []

Act = Literal["publish", "process"]


def configure_tracing(service: str, version: str, collector: str | None) -> None:
    """Export the spans of this process to an OTLP collector, "http://host:4318"; to none if None.

    Batches are sent by a thread of their own; if the collector is unreachable, only spans are lost. Raises
    FatalError("tracing-missing") where OpenTelemetry is not installed.
    """
    _in_force.clear()
    if collector is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as error:
        raise FatalError(
            "tracing-missing",
            "A collector for traces is configured, but OpenTelemetry is not installed.",
            hint="Install histgen[tracing], or leave HISTGEN_TRACES empty.",
        ) from error

    class Ids(RandomIdGenerator):
        """Returns the ids that the event has already."""

        def generate_span_id(self) -> int:
            return getattr(_next_ids, "span", 0) or super().generate_span_id()

        def generate_trace_id(self) -> int:
            return getattr(_next_ids, "trace", 0) or super().generate_trace_id()

    about = {"service.name": service, "service.namespace": "histgen", "service.version": version}
    provider = TracerProvider(resource=Resource.create(about), id_generator=Ids())
    exporter = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _in_force[:] = [provider]


def record_span(
    act: Act,
    what: str,
    *,
    traceparent: str = "",
    parent: str = "",
    began_at: float,
    ended_at: float,
    facts: Mapping[str, str | int | float] | None = None,
    code: str = "",
) -> None:
    """Export the span of something that has ended: `act` and `what` name it, times are seconds since 1970.

    `traceparent`: the span's own, as in the event that it published; a new id in `parent`'s trace if it
    published none. `parent`: that of the event it processed. `code`: why it failed, if it did.
    """
    if not _in_force:
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    _next_ids.trace, _next_ids.span = _ids(traceparent)
    span = (
        _in_force[0]
        .get_tracer("histgen")
        .start_span(
            f"{act} {what}",
            TraceContextTextMapPropagator().extract({"traceparent": parent}),
            trace.SpanKind.PRODUCER if act == "publish" else trace.SpanKind.CONSUMER,
            start_time=int(began_at * _NS),
            attributes={f"histgen.{name}": value for name, value in (facts or {}).items()},
        )
    )
    if code:
        span.set_attribute("error.type", code)
        span.set_status(trace.StatusCode.ERROR)
    span.end(int(ended_at * _NS))


def flush_tracing(seconds: float) -> None:
    """Send all pending spans; for processes that end without Python's own cleanup."""
    for provider in _in_force:
        provider.force_flush(int(seconds * 1000))


def _ids(traceparent: str) -> tuple[int, int]:
    """Return trace id and span id of a traceparent; zeros if there is none."""
    _, trace_id, span_id, _ = traceparent.split("-") if traceparent else ("", "0", "0", "")
    return int(trace_id, 16), int(span_id, 16)

"""A slide is exported from scan to draft as one trace, span by span; without a collector nothing changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_model
from harness import Stream, on_this_machine, scanned
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from waiting import until

from histgen_lib.events import BAG_READY, REPORT_DRAFTED, SLIDE_SCANNED


@dataclass
class Collector:
    """An OTLP collector over HTTP that keeps spans by service and name."""

    spans: dict[tuple[str, str], list[Span]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                body = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            ]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault((service, span.name), []).append(span)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def facts(span: Span) -> dict[str, str | int | float]:
    """Return a span's attributes."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_from_scan_to_draft_is_one_trace(collector: Collector, model_dir: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    tiny_model.write_slide(scans / "well.tif")
    tiny_model.write_slide(scans / "unscaled.tif", mpp=None)
    stream = Stream(
        on_this_machine(tmp_path),
        tmp_path,
        model_dir,
        {"HISTGEN_TRACES": collector.url, "HISTGEN_WATCH": str(scans), "HISTGEN_SETTLE_S": "0.2"},
    )
    stream.start("gateway", "tiler", "reporter")
    stream.settle(2, 120)
    stream.stop()
    until(lambda: ("reporter", f"process {BAG_READY}") in collector.spans, 60, "the last span")

    published = {
        facts(span)["histgen.slide_id"]: span
        for span in collector.spans["gateway", f"publish {SLIDE_SCANNED}"]
    }
    tiled = {
        facts(span)["histgen.slide_id"]: span for span in collector.spans["tiler", f"process {SLIDE_SCANNED}"]
    }
    (drafted,) = collector.spans["reporter", f"process {BAG_READY}"]
    chain = [published["well"], tiled["well"], drafted]
    assert len({span.trace_id for span in chain}) == 1
    assert [span.parent_span_id for span in chain] == [b"", *(span.span_id for span in chain[:-1])]
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in chain)
    (event,) = stream.history().events(REPORT_DRAFTED)
    assert event.traceparent.split("-")[1:3] == [drafted.trace_id.hex(), drafted.span_id.hex()]
    assert facts(tiled["well"])["histgen.outcome"] == "done"
    assert facts(tiled["well"])["histgen.stage.encode"] > 0

    failed = tiled["unscaled"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert facts(failed)["error.type"] == "slide-mpp-unknown"
    assert str(tmp_path).encode() not in b"".join(
        span.SerializeToString() for spans in collector.spans.values() for span in spans
    )


def test_an_unreachable_collector_costs_spans_and_nothing_else(model_dir: Path, tmp_path: Path) -> None:
    stream = Stream(on_this_machine(tmp_path), tmp_path, model_dir, {"HISTGEN_TRACES": "http://127.0.0.1:9"})
    stream.start("tiler", "reporter")
    stream.publish([scanned(tiny_model.write_slide(tmp_path / "a.tif"))])
    stream.settle(1, 120)
    stream.stop()

    assert stream.drafts() == ["a"]

"""Servers killed in mid-run: Kafka, S3Proxy, tritonserver and its models' stubs."""

from __future__ import annotations

from faults import inject_all
from harness import scanned
from invariants import check
from stream_servers import on_server, on_stub, supervised


def test_work_resumes_after_each_server_was_killed(new_stream, servers, slides, undisturbed):
    """Each stays down until workers have noticed; nothing is given up."""
    stream = new_stream(servers.place())
    events = [scanned(path) for path in slides]
    with supervised(servers.triton):
        stream.start("tiler", "reporter")
        stream.publish(events)
        injected = inject_all(
            stream,
            len(slides),
            [
                on_stub(stream, servers, "tiler", after=2),
                on_server(stream, servers.triton, "tiler", after=5, retries=2),
                on_server(stream, servers.kafka, "tiler", after=9, retries=2),
                on_server(stream, servers.s3, "tiler", after=13, retries=2),
                on_stub(stream, servers, "reporter", after=14),
            ],
        )
        assert len(injected) == 5
        stream.settle(len(events), timeout_s=240)
        stream.stop()
        check(stream.remains(), events, undisturbed)

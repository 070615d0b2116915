"""The servers are killed in mid-run: a real Kafka, S3Proxy, tritonserver and its models' stubs."""

from __future__ import annotations

from blows import fell
from harness import scanned
from invariants import check
from servers_of_its_own import on_server, on_stub, supervised


def test_stub_tritonserver_broker_and_store_are_killed(new_stream, servers, slides, undisturbed):
    """Each is away until workers have felt it: nothing is given up, and work goes on by itself."""
    stream = new_stream(servers.place())
    events = [scanned(path) for path in slides]
    with supervised(servers.triton):
        stream.start("tiler", "reporter")
        stream.publish(events)
        struck = fell(
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
        assert len(struck) == 5
        stream.settle(len(events), timeout_s=240)
        stream.stop()
        check(stream.remains(), events, undisturbed)

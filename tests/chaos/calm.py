"""What a stream makes when nobody disturbs it: what all other runs are compared with."""

from __future__ import annotations

from pathlib import Path

from harness import Remains, Stream, scanned
from invariants import check


def run_undisturbed(stream: Stream, slides: list[Path]) -> Remains:
    """Run slides through a stream that nobody disturbs."""
    events = [scanned(path) for path in slides]
    try:
        stream.start("tiler", "reporter")
        stream.publish(events)
        stream.settle(len(events), timeout_s=300)
        stream.stop()
    finally:
        stream.abort()
    remains = stream.remains()
    check(remains, events, remains.results())
    return remains

"""The undisturbed run that all other runs are compared with."""

from __future__ import annotations

from pathlib import Path

from harness import Remains, Stream, scanned
from invariants import check


def run_undisturbed(stream: Stream, slides: list[Path]) -> Remains:
    """Run slides through an undisturbed stream and check what it leaves."""
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

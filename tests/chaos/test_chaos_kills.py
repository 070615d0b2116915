"""Kill -9 in mid-run: every event ends once, with the bytes of an undisturbed run."""

from __future__ import annotations

import random

import pytest
from blows import fell, on_workers
from harness import scanned
from invariants import check


@pytest.mark.parametrize("seed", [1])
def test_tiler_reporter_and_their_children_are_killed(new_stream, slides, undisturbed, seed):
    stream = new_stream()
    events = [scanned(path) for path in slides]
    stream.start("tiler", "reporter")
    blows = on_workers(stream, random.Random(seed), until=len(slides) * 3 // 5, each=2)
    with stream.watch.watching():
        stream.publish(events)
        struck = fell(stream, len(slides), *blows)
        assert list(struck.values()) == [2, 2, 2, 2], struck
        stream.settle(len(events), timeout_s=120)
    stream.stop()
    check(stream.remains(), events, undisturbed, orphans=struck["tiler"] + struck["reporter"])

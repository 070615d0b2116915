"""Kills in mid-run: every event ends once, with the bytes of an undisturbed run."""

from __future__ import annotations

import random

import pytest
from faults import inject_all, on_workers
from harness import scanned
from invariants import check


@pytest.mark.parametrize("seed", [1])
def test_killed_workers_and_children_lose_and_repeat_nothing(new_stream, slides, undisturbed, seed):
    stream = new_stream()
    events = [scanned(path) for path in slides]
    stream.start("tiler", "reporter")
    faults = on_workers(stream, random.Random(seed), until=len(slides) * 3 // 5, each=2)
    with stream.watch.watching():
        stream.publish(events)
        injected = inject_all(stream, len(slides), *faults)
        assert list(injected.values()) == [2, 2, 2, 2], injected
        stream.settle(len(events), timeout_s=120)
    stream.stop()
    check(stream.remains(), events, undisturbed, orphans=injected["tiler"] + injected["reporter"])

"""Servers that are away for two minutes: nothing is given up, and work resumes by itself."""

from __future__ import annotations

import time

import pytest
from blows import at
from harness import scanned
from invariants import check
from servers_of_its_own import supervised, tried

AWAY_S = 120.0
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", ["kafka", "triton", "s3"])
def test_a_server_is_away_for_two_minutes(new_stream, servers, slides, undisturbed, name):
    stream, server = new_stream(servers.place()), getattr(servers, name)
    events = [scanned(path) for path in slides]
    with supervised(servers.triton):
        stream.start("tiler", "reporter")
        stream.publish(events)
        stream.until(lambda: at(stream, "tiler", 5, "any"), 120, "the run is on its way")
        server.kill()
        back_at = time.monotonic() + AWAY_S
        stream.until(lambda: time.monotonic() > back_at, 2 * AWAY_S, "two minutes")
        assert len(stream.drafts()) < len(events)
        assert tried(stream) > 0
        server.start()
        back_at = time.monotonic()
        stream.settle(len(events), timeout_s=300)
        seconds = time.monotonic() - back_at
        stream.stop()
        check(stream.remains(), events, undisturbed)
    print(f"\n{name} away for {AWAY_S:.0f} s; all slides drafted {seconds:.0f} s after it was back")

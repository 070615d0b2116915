"""Servers are down for two minutes and workers killed meanwhile: nothing is given up, work resumes."""

from __future__ import annotations

import time

import pytest
from faults import at
from harness import scanned
from invariants import check
from stream_servers import supervised, tried

AWAY_S, KILLS = 120.0, 3
"""How often workers are killed while they have records set aside."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", ["kafka", "triton", "s3"])
def test_work_resumes_after_a_server_was_down_for_two_minutes(new_stream, servers, slides, undisturbed, name):
    stream, server = new_stream(servers.place()), getattr(servers, name)
    events = [scanned(path) for path in slides]
    with supervised(servers.triton), stream.watch.watching():
        stream.start("tiler", "reporter")
        stream.publish(events)
        stream.until(lambda: at(stream, "tiler", 5, "any"), 120, "the run is on its way")
        server.kill()
        for _ in range(KILLS):
            away(stream, AWAY_S / (KILLS + 1))
            kill_workers(stream)
        away(stream, AWAY_S / (KILLS + 1))
        assert len(stream.drafts()) < len(events)
        assert tried(stream) > 0
        server.start()
        back_at = time.monotonic()
        stream.settle(len(events), timeout_s=300)
        seconds = time.monotonic() - back_at
        stream.stop()
        check(stream.remains(), events, undisturbed, orphans=2 * KILLS)
    print(f"\n{name} down for {AWAY_S:.0f} s; all slides drafted {seconds:.0f} s after its return")


def away(stream, seconds):
    """Let time pass; every worker must stay alive."""
    end = time.monotonic() + seconds
    stream.until(lambda: stream.check_alive() or time.monotonic() > end, 2 * seconds, "the outage")


def kill_workers(stream):
    """Kill and restart the workers, which forget what they had set aside."""
    for label in ("tiler", "reporter"):
        stream.services[label].kill()
        stream.restart(label)

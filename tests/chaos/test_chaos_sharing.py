"""Members of a group: a job longer than any limit of the broker, a worker that comes and one that goes.

A job is made as long as a test wants by stopping the child process (SIGSTOP) where it stands.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

import pytest
from harness import Place, on_this_machine, scanned
from invariants import check, check_ends, check_whole, done_again
from processes import thaw

from histgen_lib.bus import BusSettings

SESSION_S, MAX_POLL_S = 2.0, 3.0


@pytest.fixture(params=["embedded", "kafka"])
def place(request, tmp_path) -> Place:
    here = on_this_machine(tmp_path / "place", session_s=SESSION_S)
    if request.param == "embedded":
        return here
    limits = (("max_poll_interval_ms", int(MAX_POLL_S * 1000)),)
    url = request.getfixturevalue("own_kafka").url
    return dataclasses.replace(here, bus=BusSettings(url, partitions=4, session_s=SESSION_S, kafka=limits))


def test_a_job_longer_than_session_and_poll_limits_is_done_once(new_stream, place, slides):
    """Another tiler stands by, which would get the record if the first one's membership were lost."""
    stream = new_stream(place)
    event = scanned(slides[0])
    stream.start("tiler", "tiler-2", "reporter")
    tilers = [stream.services["tiler"], stream.services["tiler-2"]]
    frozen = {tiler: tiler.freeze_child() for tiler in tilers}
    stream.publish([event])
    stream.until(lambda: any(tiler.in_flight() for tiler in tilers), 30, "a tiler has the record")
    began_at = time.monotonic()
    busy, idle = sorted(tilers, key=lambda tiler: not tiler.in_flight())
    thaw(frozen[idle])
    over = began_at + 2 * max(SESSION_S, MAX_POLL_S)
    stream.until(lambda: time.monotonic() > over, 60, "the limits are over")
    assert busy.in_flight()["event_id"] == event.id
    assert not idle.in_flight()

    thaw(frozen[busy])
    stream.settle(1, timeout_s=60)
    assert busy.metric("histgen_jobs_total", outcome="done") == 1
    assert idle.metric("histgen_jobs_total") == 0
    stream.stop()
    remains = stream.remains()
    check_ends(remains, [event])
    check_whole(remains)
    assert done_again(remains) == 0


@pytest.mark.parametrize("grace_s", [20, 0], ids=["finishes its job", "hands its job back"])
def test_a_second_tiler_takes_its_share_and_leaves(new_stream, place, slides, undisturbed, grace_s):
    """It works while the first is busy, and leaves with a job in hand; nothing is done twice."""
    stream = new_stream(place)
    events = [scanned(path) for path in slides]
    stream.start("tiler", "reporter")
    first = stream.services["tiler"]
    frozen = first.freeze_child()
    stream.publish(events)
    held = stream.until(first.in_flight, 30, "the first tiler is busy")
    stream.start("tiler-2", HISTGEN_GRACE_S=str(grace_s))
    second = stream.services["tiler-2"]
    stream.until(lambda: second.status()["jobs_done"] >= 2, 60, "the second tiler works")
    assert first.in_flight()["event_id"] == held["event_id"]

    child = second.freeze_child()
    stream.until(second.in_flight, 30, "the second tiler is busy")
    second.ask_to_stop()
    thaw(frozen)
    if grace_s:
        thaw(child)
    assert stream.services.pop("tiler-2").left() == 0
    stream.settle(len(events), timeout_s=120)
    stream.stop()
    remains = stream.remains()
    check(remains, events, undisturbed)
    assert Counter(event.key for event in remains.said["bag.ready"]) == Counter(event.key for event in events)

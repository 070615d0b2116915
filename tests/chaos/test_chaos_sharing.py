"""Members of a group: a job longer than the broker's limits, and workers that join and leave.

A test prolongs a job by freezing the child process (SIGSTOP).
"""

from __future__ import annotations

import time
from collections import Counter

import pytest
from harness import MAX_POLL_S, SESSION_S, scanned
from invariants import check, check_ends, check_whole, done_again
from processes import freeze, thaw


def busy_with(stream, events):
    """Start a tiler and a reporter; return the tiler's frozen child and the job it has in hand."""
    stream.start("tiler", "reporter")
    tiler = stream.services["tiler"]
    child = tiler.freeze_child()
    stream.publish(events)
    return child, stream.until(tiler.in_flight, 60, "the first tiler is busy")


@pytest.mark.parametrize("place", ["kafka", pytest.param("embedded", marks=pytest.mark.soak)], indirect=True)
def test_a_job_longer_than_session_and_poll_limits_is_done_once(new_stream, place, slides):
    """A second tiler is ready; it would get the record if the first one lost its membership."""
    stream = new_stream(place)
    event = scanned(slides[0])
    stream.start("tiler", "tiler-2", "reporter")
    tilers = [stream.services["tiler"], stream.services["tiler-2"]]
    frozen = {tiler: tiler.freeze_child() for tiler in tilers}
    stream.publish([event])
    stream.until(lambda: any(tiler.in_flight() for tiler in tilers), 60, "a tiler has the record")
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


@pytest.mark.parametrize(
    ("place", "grace_s"),
    [
        ("kafka", 20),
        ("embedded", 0),
        pytest.param("kafka", 0, marks=pytest.mark.soak),
        pytest.param("embedded", 20, marks=pytest.mark.soak),
    ],
    indirect=["place"],
)
def test_a_tiler_joins_and_leaves_without_repeating_work(new_stream, place, slides, undisturbed, grace_s):
    """It works while the first is busy, and leaves with a job in hand.

    It finishes that job within its grace period; without one it hands the job back.
    """
    stream = new_stream(place)
    events = [scanned(path) for path in slides]
    frozen, held = busy_with(stream, events)
    first = stream.services["tiler"]
    stream.start("tiler-2", HISTGEN_GRACE_S=str(grace_s))
    second = stream.services["tiler-2"]
    stream.until(lambda: second.status()["jobs_done"] >= 2, 60, "the second tiler works")
    assert first.in_flight()["event_id"] == held["event_id"]

    child = second.freeze_child()
    stream.until(second.in_flight, 60, "the second tiler is busy")
    second.ask_to_stop()
    thaw(frozen)
    if grace_s:
        thaw(child)
    assert stream.services.pop("tiler-2").left() == 0
    stream.settle(len(events), timeout_s=120)
    stream.stop()
    remains = stream.remains()
    check(remains, events, undisturbed)
    assert Counter(event.key for event in remains.history.events("bag.ready")) == Counter(
        event.key for event in events
    )


@pytest.mark.parametrize("place", ["embedded", pytest.param("kafka", marks=pytest.mark.soak)], indirect=True)
def test_a_tiler_that_was_suspended_does_no_harm_when_it_resumes(new_stream, place, slides, undisturbed):
    """Like a laptop that slept: another tiler has done its work by then."""
    stream = new_stream(place)
    events = [scanned(path) for path in slides]
    child, held = busy_with(stream, events)
    first = stream.services["tiler"]
    freeze(first.pid)
    stream.start("tiler-2")
    stream.until(lambda: len(stream.drafts()) == len(events), 120, "the second tiler does it all")
    thaw(first.pid)
    thaw(child)
    stream.settle(len(events), timeout_s=60)
    stream.until(lambda: first.metric("histgen_jobs_total", outcome="lost") == 1, 60, "the first knows")
    stream.stop()
    remains = stream.remains()
    check(remains, events, undisturbed)
    twice = Counter(event.key for event in remains.history.events("bag.ready")) - Counter(
        e.key for e in events
    )
    assert twice == Counter([held["slide_id"]])

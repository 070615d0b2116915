"""Workers that an autoscaler starts and stops by the broker's lag, with its rules and our numbers.

A test prolongs a job by freezing the child process (SIGSTOP).
"""

from __future__ import annotations

import pytest
from cluster import Cluster
from harness import scanned
from history import FINISHED
from invariants import check_committed, check_ends, check_nothing_else, check_whole, done_again
from processes import thaw
from scaled_object import tiler_object

from histgen_lib.capacity.autoscaler import autoscaler_of

PARTITIONS = 4
"""Of the topics here: no more workers can work."""
SLIDES = 12
GRACE = {"HISTGEN_GRACE_S": "600", "HISTGEN_FROZEN_S": "0"}


def new_cluster(stream, most: int = PARTITIONS, **more) -> Cluster:
    """Return a cluster without pods, and start a reporter beside it."""
    stream.start("reporter")
    manifest = tiler_object()
    manifest["spec"]["maxReplicaCount"] = most
    return Cluster(stream, "tiler", autoscaler_of(manifest), GRACE, **more)


@pytest.mark.parametrize("place", ["kafka"], indirect=True)
def test_workers_follow_the_lag_from_none_to_all_through_an_outage_and_back(new_stream, place, slides):
    """All partitions get a worker; nobody is taken away while KEDA cannot ask; each slide ends once."""
    stream, frozen = new_stream(place), list[int]()
    cluster = new_cluster(stream, on_start=lambda tiler: frozen.append(tiler.freeze_child()))
    events = [scanned(path) for path in slides[:SLIDES]]
    assert set(cluster.pass_time(60)) == {0}
    stream.publish(events[:-2])

    assert cluster.pass_time(60)[-1] == PARTITIONS
    stream.until(lambda: all(tiler.in_flight() for tiler in cluster.services()), 60, "all have a slide")
    places = {tiler.in_flight()["event_id"] for tiler in cluster.services()}
    assert len(places) == PARTITIONS
    assert set(cluster.pass_time(7200, broker_away=True)) == {PARTITIONS}

    cluster.on_start = lambda tiler: None
    for child in frozen:
        thaw(child)
    stream.settle(len(events) - 2, timeout_s=300)
    assert cluster.pass_time(900)[-1] == 0
    assert [cluster.gone(label) for label in list(cluster.leaving)] == [0] * PARTITIONS

    stream.publish(events[-2:])
    assert cluster.pass_time(15)[-1] >= 1
    stream.settle(len(events), timeout_s=300)
    stream.stop()
    remains = stream.remains()
    check_all(remains, events)


@pytest.mark.parametrize("place", ["kafka"], indirect=True)
def test_a_drained_node_loses_no_slide_whether_it_is_finished_handed_back_or_cut_off(
    new_stream, place, slides
):
    """Three pods leave at once, each with a slide in hand, while others take their place.

    One finishes its slide within the grace period, one hands it back at the end of a shorter one, and one is
    killed with it, as when the node's own time is over.
    """
    stream, frozen = new_stream(place), dict[str, int]()
    cluster = new_cluster(stream, most=1)
    events = [scanned(path) for path in slides[:SLIDES]]
    stream.publish(events)
    for settings in (GRACE, GRACE | {"HISTGEN_GRACE_S": "1"}, GRACE):
        cluster.settings = settings
        cluster.scale(len(cluster.pods) + 1)
        frozen[cluster.pods[-1]] = stream.services[cluster.pods[-1]].freeze_child()
    finishes, hands_back, is_killed = cluster.pods
    stream.until(lambda: all(tiler.in_flight() for tiler in cluster.services()), 60, "all have a slide")
    held = [tiler.in_flight()["event_id"] for tiler in cluster.services()]

    cluster.settings = GRACE
    cluster.evict(finishes, hands_back, is_killed)
    assert cluster.pass_time(15) == [1]
    thaw(frozen[finishes])
    assert cluster.gone(finishes) == 0
    assert cluster.gone(hands_back) == 0
    cluster.kill(is_killed)
    stream.settle(len(events), timeout_s=300)
    stream.stop()
    remains = stream.remains()
    check_all(remains, events, orphans=1)
    ends = [finished_by(stream, event_id) for event_id in held]
    assert ends[0] == {finishes}
    assert not ends[1] & {finishes, hands_back, is_killed}
    assert not ends[2] & {finishes, hands_back, is_killed}


def check_all(remains, events, *, orphans: int = 0) -> None:
    """Check that each event ended once, that nothing else is left, and that no record is left or passed."""
    check_ends(remains, events)
    check_whole(remains)
    check_nothing_else(remains, orphans)
    check_committed(remains)
    assert done_again(remains) == 0


def finished_by(stream, event_id: str) -> set[str]:
    """Return the tilers that finished an event, by their logs."""
    return {
        log.stem
        for log in stream.folder.glob("tiler-*.log")
        for line in log.read_text().splitlines()
        if FINISHED in line and event_id in line and '"outcome": "done"' in line
    }

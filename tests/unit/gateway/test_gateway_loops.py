"""The gateway's loops survive every failure, lose nothing, and end after a stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_fakes import GatewayLab, Topic, context, keys_of, running
from notification_bodies import amazon, record
from waiting import until

from histgen_lib.bus import BusSettings
from histgen_lib.catalogue.audit import Entry, entries
from histgen_lib.catalogue.keys import SEEN
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import StorageSettings, open_store
from services.gateway.bucket_intake import NotificationTopic
from services.gateway.folder import Folder
from services.gateway.housekeeping import Pruning
from services.gateway.watching import Watching


@contextmanager
def _watching(lab: GatewayLab, folder: Path | None = None) -> Iterator[Watching]:
    stop = Stop()
    loop = Watching(context(stop), Folder(folder or lab.folder), lab.intake, settle_s=0.02, look_s=0.01)
    with running(loop, stop):
        yield loop


def test_slides_that_appear_are_announced_once(lab: GatewayLab):
    with _watching(lab) as loop:
        lab.file("a.svs", "a")
        until(lambda: keys_of(lab) == ["a"], 60, "a is announced")
        lab.file("deep/b.svs", "b")
        until(lambda: keys_of(lab) == ["a", "b"], 60, "b is announced")
        until(lambda: loop.waiting == 0, 60, "nothing waits")
    assert keys_of(lab) == ["a", "b"]


def test_after_a_restart_nothing_is_read_that_was_announced(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    lab.file("a.svs", "a")
    with _watching(lab):
        until(lambda: any(key.startswith("gateway/seen/") for key in lab.store.kept), 60, "a is noted")
    lab.restarted()
    read: list[object] = []
    monkeypatch.setattr(lab.intake.contents, "measure", lambda place, _: read.append(place))
    with _watching(lab) as loop:
        until(lambda: loop.waiting == 0 and loop.tracked, 60, "a second look")
    assert read == []


def test_outages_of_broker_and_store_are_waited_out(lab: GatewayLab):
    lab.bus.away = lab.store.away = True
    lab.file("a.svs", "a")
    lab.file("b.svs", "b")
    with _watching(lab) as loop:
        until(lambda: loop._board.missing.get("watch") == "storage-unavailable", 60, "the store is missed")
        lab.store.away = False
        until(lambda: loop._board.missing.get("watch") == "bus-unavailable", 60, "the broker is missed")
        lab.bus.away = False
        until(lambda: keys_of(lab) == ["a", "b"], 60, "both are announced")
        until(lambda: "watch" not in loop._board.missing, 60, "nothing is missed")


def test_a_file_that_cannot_be_read_does_not_hold_up_the_others(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    from services.gateway import contents

    closed = {"a.svs"}
    real = contents.content_id_of

    def reads(parts):
        if parts[0].name in closed:
            raise PermissionError(13, "Permission denied")
        return real(parts)

    monkeypatch.setattr(contents, "content_id_of", reads)
    lab.file("a.svs", "a")
    lab.file("b.svs", "b")
    with _watching(lab) as loop:
        until(lambda: keys_of(lab) == ["b"], 60, "b is announced")
        until(lambda: loop.waiting == 1, 60, "only a waits")
        closed.clear()
        until(lambda: keys_of(lab) == ["a", "b"], 60, "a is announced once it can be read")


def test_a_file_deleted_between_scan_and_reading_does_no_harm(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    path = lab.file("a.svs", "a")
    real = lab.intake.contents.measure
    monkeypatch.setattr(
        lab.intake.contents, "measure", lambda place, _: (path.unlink(missing_ok=True), real(place))[1]
    )
    with _watching(lab) as loop:
        until(lambda: not path.exists(), 60, "the file vanishes")
        monkeypatch.setattr(lab.intake.contents, "measure", real)
        lab.file("b.svs", "b")
        until(lambda: keys_of(lab) == ["b"], 60, "b is announced")
        until(lambda: loop.waiting == 0, 60, "nothing waits")


def test_a_folder_that_is_not_mounted_yet_is_waited_for(lab: GatewayLab):
    share = lab.folder / "share"
    with _watching(lab, share) as loop:
        until(lambda: loop._board.missing.get("watch") == "watch-unavailable", 60, "the share is missed")
        lab.file("share/a.svs", "a")
        until(lambda: keys_of(lab) == ["a"], 60, "a is announced")


def test_an_unexpected_error_does_not_end_the_watch(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    real = lab.intake.submit
    faults = iter([RuntimeError("boom")] * 3)

    def submit(submission):
        for fault in faults:
            raise fault
        return real(submission)

    monkeypatch.setattr(lab.intake, "submit", submit)
    lab.file("a.svs", "a")
    with _watching(lab):
        until(lambda: keys_of(lab) == ["a"], 60, "a is announced all the same")


def test_a_slide_that_is_refused_for_good_is_not_tried_again(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    outside = lab.folder.parent / "secret.svs"
    outside.write_text("secret")
    (lab.folder / "a.svs").symlink_to(outside)
    with _watching(lab) as loop:
        until(lambda: loop.tracked and loop.waiting == 0, 60, "the link is dealt with")
    assert lab.bus.published == []


def test_a_fatal_error_ends_the_service(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    def denied():
        raise FatalError("storage-denied", "No.")

    monkeypatch.setattr(lab.intake.ledger, "all_seen", denied)
    stop = Stop()
    loop = Watching(context(stop), Folder(lab.folder), lab.intake, settle_s=1, look_s=1)
    with running(loop, stop):
        assert stop.wait(10)
    assert [failure.code for failure in stop.failures] == ["storage-denied"]


def test_a_stop_lets_the_slide_in_hand_be_finished_within_the_grace_period(lab: GatewayLab, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    real = lab.intake.contents.measure

    def measure(place, _):
        entered.set()
        go_on.wait(10)
        return real(place)

    monkeypatch.setattr(lab.intake.contents, "measure", measure)
    stop = Stop()
    lab.file("a.svs", "a")
    loop = Watching(context(stop, grace_s=20), Folder(lab.folder), lab.intake, settle_s=0.02, look_s=0.01)
    with running(loop, stop):
        assert entered.wait(10)
        stop.request()
        go_on.set()
    assert keys_of(lab) == ["a"]


def test_a_stop_does_not_wait_longer_than_the_grace_period(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    entered, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(lab.intake.contents, "measure", lambda *_: (entered.set(), go_on.wait(30)))
    stop = Stop()
    lab.file("a.svs", "a")
    loop = Watching(context(stop, grace_s=0.1), Folder(lab.folder), lab.intake, settle_s=0.02, look_s=0.01)
    with running(loop, stop):
        assert entered.wait(10)
    go_on.set()
    assert lab.store.kept == {}


@contextmanager
def _reading(lab: GatewayLab, topic: Topic, grace_s: float = 20.0) -> Iterator[NotificationTopic]:
    stop = Stop()
    loop = NotificationTopic(context(stop, grace_s=grace_s), lambda: topic, lab.intake)
    with running(loop, stop):
        yield loop
    assert topic.closed.is_set()


def test_notifications_are_committed_after_the_slide_is_announced(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    committed_then: list[int] = []
    real = lab.bus.publish
    monkeypatch.setattr(
        lab.bus, "publish", lambda *event: (committed_then.append(topic.committed), real(*event))
    )
    with _reading(lab, topic):
        until(lambda: topic.committed == 1, 60, "the notification is committed")
    assert committed_then == [0]
    assert keys_of(lab) == ["a"]


def test_poison_is_given_up_and_the_rest_is_taken_in(lab: GatewayLab):
    lab.object("lab", "a.svs")
    bodies = [b"\xff\x00", b"{}", b'{"Records": [null]}', amazon(record("lab", "gone.svs"))]
    topic = Topic([*bodies, amazon(record("lab", "a.svs"))])
    with _reading(lab, topic):
        until(lambda: topic.committed == 5, 60, "all are committed")
    assert keys_of(lab) == ["a"]
    assert len(lab.bus.letters) == 4


def test_a_notification_that_fails_unexpectedly_is_given_up_after_some_tries(lab: GatewayLab, monkeypatch):
    tries: list[object] = []

    def fails(submission):
        tries.append(submission)
        raise RuntimeError("boom")

    lab.object("lab", "a.svs")
    monkeypatch.setattr(lab.intake, "submit", fails)
    topic = Topic([amazon(record("lab", "a.svs")), b"{}"])
    with _reading(lab, topic):
        until(lambda: topic.committed == 2, 60, "both are committed")
    assert len(tries) == 3
    assert [event.data.code for event in lab.bus.letters] == [
        "notification-failed",
        "notification-unreadable",
    ]


def test_a_damaged_record_is_given_up_by_its_position_and_not_read(lab: GatewayLab):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    topic.why = InvalidInputError("record-damaged", "A record on the broker is damaged.")
    with _reading(lab, topic):
        until(lambda: topic.committed == 1, 60, "it is committed")
    assert [event.data.code for event in lab.bus.letters] == ["record-damaged"]
    assert keys_of(lab) == []


def test_partitions_that_wait_are_shown_while_others_are_read(lab: GatewayLab):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    topic.waiting = TransientError("bus-record", "Partitions wait.")
    with _reading(lab, topic) as loop:
        until(lambda: topic.committed == 1, 60, "the notification is committed")
        assert loop._board.missing["records"] == "bus-record"
        topic.waiting = None
        until(lambda: "records" not in loop._board.missing, 60, "they go on")
    assert keys_of(lab) == ["a"]


def test_an_outage_fills_no_dead_letters(lab: GatewayLab):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    lab.bus.away = lab.store.away = topic.away = True
    with _reading(lab, topic) as loop:
        until(lambda: "notifications" in loop._board.missing, 60, "the broker is missed")
        topic.away = False
        until(lambda: topic.held, 60, "the notification is in hand")
        lab.store.away = False
        lab.bus.away = False
        until(lambda: topic.committed == 1, 60, "the notification is committed")
    assert lab.bus.letters == []
    assert keys_of(lab) == ["a"]


def test_membership_is_kept_while_a_large_object_is_read(lab: GatewayLab):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    lab.buckets["lab"].on_read = lambda: until(lambda: topic.kept >= 3, 60, "three signs of life")
    with _reading(lab, topic):
        until(lambda: topic.committed == 1, 60, "the notification is committed")
    assert topic.kept >= 3


def test_a_notification_interrupted_by_a_stop_is_handed_back(lab: GatewayLab):
    lab.object("lab", "a.svs")
    topic = Topic([amazon(record("lab", "a.svs"))])
    entered, go_on = threading.Event(), threading.Event()
    lab.buckets["lab"].on_read = lambda: (entered.set(), go_on.wait(30))
    with _reading(lab, topic, grace_s=0.05):
        assert entered.wait(10)
    assert (topic.committed, topic.released) == (0, 1)
    go_on.set()


def test_a_broker_that_cannot_be_joined_yet_is_joined_later(lab: GatewayLab):
    topic, tries = Topic([]), []

    def subscribe():
        tries.append(1)
        if len(tries) < 3:
            raise TransientError("bus-unavailable", "Away.")
        return topic

    stop = Stop()
    loop = NotificationTopic(context(stop), subscribe, lab.intake)
    with running(loop, stop):
        until(lambda: len(tries) == 3 and "notifications" not in loop._board.missing, 60, "it joined")


def test_pruning_runs_after_the_start_and_stops_at_once(tmp_path):
    store, stop = open_store(StorageSettings(f"file:{tmp_path}")), Stop()
    store.put(f"{SEEN}old", b"{}")
    store.put(f"{SEEN}young", b"{}")
    os.utime(tmp_path / SEEN / "old", (1.0, 1.0))
    bus = BusSettings(f"embedded:{tmp_path / 'bus.db'}")
    with running(Pruning(context(stop), store, bus, {"seen": 30.0}, first_s=0.0), stop):
        until(lambda: store.head(f"{SEEN}old") is None, 60, "the old note is gone")

    assert store.head(f"{SEEN}young")
    (entry,) = [Entry.from_bytes(data) for _, data in entries(store)]
    assert (entry.action, entry.by, entry.what) == ("pruned", "retention", {"seen": "30"})

"""A follower reports every end once, at little cost to the store."""

from __future__ import annotations

from datetime import timedelta

import planted_objects as planted
import pytest

from histgen_lib.catalogue.keys import LETTERS
from histgen_lib.client import following
from histgen_lib.client.api import WorkerState
from histgen_lib.client.following import Follower, IndexPoller, SlideUpdate, StorePoller
from histgen_lib.errors import TransientError
from histgen_lib.storage import StorageSettings, open_store

IDLE = WorkerState("reporter", 1, "http://x", answers=True)


class Time:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def now(self):
        return planted.NOON + timedelta(seconds=self.seconds)


@pytest.fixture
def store(tmp_path):
    return open_store(StorageSettings(f"file:{tmp_path}"))


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def follower(store, time):
    planted.scan(store, "old")
    planted.draft(store, "old")
    new = Follower(StorePoller(store), None, now=time.now, clock=time.clock)
    assert new.poll().news == ()
    return new


def test_an_end_is_reported_once_with_the_seconds_since_the_scan(follower, store, time):
    planted.scan(store, "a")
    planted.draft(store, "a")
    time.seconds = 30.0
    (ended,) = follower.poll().news

    assert (ended.slide.slide_id, ended.seconds) == ("a", 30.0)
    time.seconds = 60.0
    picture = follower.poll()
    assert picture.news == ()
    assert picture.counts == {"drafted": 2}
    assert picture.per_minute == 1.0


def test_another_end_of_the_same_slide_is_news_again(follower, store, time):
    planted.letter(store, planted.scan(store, "a"))
    time.seconds = 1.0
    assert [ended.slide.state for ended in follower.poll().news] == ["dead-letter"]
    planted.scan(store, "a", data="repaired")
    planted.draft(store, "a", data="repaired")
    time.seconds = 2.0

    assert [ended.slide.state for ended in follower.poll().news] == ["drafted"]


def test_a_slow_store_is_polled_less_often(follower, store, time, monkeypatch):
    looks = []
    listing = type(store).list

    def slow(self, prefix=""):
        if prefix == "slides/":
            looks.append(time.seconds)
            time.seconds += 2.0
        return listing(self, prefix)

    monkeypatch.setattr(type(store), "list", slow)
    time.seconds = 1.0
    while time.seconds < 100.0:
        follower.poll()
        time.seconds += 0.5

    assert len(looks) <= 6


def test_an_unavailable_store_is_reported_and_the_last_slides_are_kept(follower, store, time, monkeypatch):
    def away(self, prefix=""):
        raise TransientError("storage-unavailable", "The store is away.")

    time.seconds = 1.0
    with monkeypatch.context() as broken:
        broken.setattr(type(store), "list", away)
        picture = follower.poll()
        assert picture.away == "storage-unavailable"
        assert [slide.slide_id for slide in picture.slides] == ["old"]
    time.seconds = 2.0

    assert follower.poll().away == ""


def test_an_idle_store_is_not_polled_until_a_worker_has_done_something(store, time, monkeypatch, tmp_path):
    done = [0]

    def workers(_):
        return [WorkerState("reporter", 1, "http://x", answers=True, jobs_done=done[0])]

    monkeypatch.setattr(following, "worker_states", workers)
    follower = Follower(StorePoller(store), tmp_path, now=time.now, clock=time.clock)
    follower.poll()
    time.seconds = 20.0
    follower.poll()
    planted.scan(store, "a")
    planted.draft(store, "a")
    time.seconds = 40.0
    assert follower.poll().news == ()
    assert follower.pause_s == 10.0
    done[0] = 1
    time.seconds = 41.0

    assert [ended.slide.slide_id for ended in follower.poll().news] == ["a"]
    assert follower.pause_s == 0.5


def test_an_idle_store_is_polled_once_a_minute(store, time, monkeypatch, tmp_path):
    """Someone else may write to it, too."""
    monkeypatch.setattr(following, "worker_states", lambda _: [IDLE])
    follower = Follower(StorePoller(store), tmp_path, now=time.now, clock=time.clock)
    follower.poll()
    planted.letter(store, planted.scan(store, "a"))
    time.seconds = 61.0

    assert [ended.slide.slide_id for ended in follower.poll().news] == ["a"]


def test_an_idle_index_is_read_at_most_every_two_seconds(time, monkeypatch, tmp_path):
    class Looks:
        idle_s = IndexPoller.idle_s
        count = 0

        def poll(self):
            self.count += 1
            return SlideUpdate(())

    monkeypatch.setattr(following, "worker_states", lambda _: [IDLE])
    looks = Looks()
    follower = Follower(looks, tmp_path, now=time.now, clock=time.clock)
    follower.poll()
    time.seconds, looks.count = 20.0, 0
    while time.seconds < 40.0:
        time.seconds += 0.5
        follower.poll()

    assert looks.count == 10


def test_waiting_for_some_slides_reads_no_letters_of_others(store, time, monkeypatch):
    for slide_id in "abc":
        planted.letter(store, planted.scan(store, slide_id))
    follower = Follower(StorePoller(store, only={"b", "nowhere"}), None, now=time.now, clock=time.clock)
    listed = type(store).list

    def elsewhere(self, prefix=""):
        assert not prefix.startswith(LETTERS), "letters are listed"
        return listed(self, prefix)

    monkeypatch.setattr(type(store), "list", elsewhere)

    assert [(slide.slide_id, slide.state) for slide in follower.poll().slides] == [("b", "dead-letter")]

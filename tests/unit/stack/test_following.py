"""Following tells every end once, and does not wear the store out."""

from __future__ import annotations

from datetime import timedelta

import planted_objects as planted
import pytest

from histgen_lib.catalogue.keys import LETTERS
from histgen_lib.client import following
from histgen_lib.client.following import Follower
from histgen_lib.client.sight import IndexSight, Seen, StoreSight
from histgen_lib.client.workers import WorkerState
from histgen_lib.errors import TransientError
from histgen_lib.storage import StorageSettings, open_store


class Time:
    """Seconds that pass when they are told to."""

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
    made = Follower(StoreSight(store), None, now=time.now, clock=time.clock)
    assert made.look().news == ()
    return made


def test_an_end_is_told_once_with_its_seconds_since_the_scan(follower, store, time):
    planted.scan(store, "a")
    planted.draft(store, "a")
    time.seconds = 30.0
    (ended,) = follower.look().news

    assert (ended.slide.slide_id, ended.seconds) == ("a", 30.0)
    time.seconds = 60.0
    picture = follower.look()
    assert picture.news == ()
    assert picture.counts == {"drafted": 2}
    assert picture.per_minute == 1.0


def test_another_end_of_the_same_slide_is_news_again(follower, store, time):
    planted.letter(store, planted.scan(store, "a"))
    time.seconds = 1.0
    assert [ended.slide.state for ended in follower.look().news] == ["dead-letter"]
    planted.scan(store, "a", data="repaired")
    planted.draft(store, "a", data="repaired")
    time.seconds = 2.0

    assert [ended.slide.state for ended in follower.look().news] == ["drafted"]


def test_a_slow_store_is_looked_into_less_often(follower, store, time, monkeypatch):
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
        follower.look()
        time.seconds += 0.5

    assert len(looks) <= 6


def test_a_store_that_is_away_is_said_and_the_last_picture_kept(follower, store, time, monkeypatch):
    def away(self, prefix=""):
        raise TransientError("storage-unavailable", "The store is away.")

    time.seconds = 1.0
    with monkeypatch.context() as broken:
        broken.setattr(type(store), "list", away)
        picture = follower.look()
        assert picture.away == "storage-unavailable"
        assert [slide.slide_id for slide in picture.slides] == ["old"]
    time.seconds = 2.0

    assert follower.look().away == ""


def test_at_rest_the_store_is_left_alone_until_a_worker_has_done_something(
    store, time, monkeypatch, tmp_path
):
    done = [0]

    def workers(_):
        return [WorkerState("reporter", 1, "http://x", answers=True, jobs_done=done[0])]

    monkeypatch.setattr(following, "look", workers)
    follower = Follower(StoreSight(store), tmp_path, now=time.now, clock=time.clock)
    follower.look()
    time.seconds = 20.0
    follower.look()
    planted.scan(store, "a")
    planted.draft(store, "a")
    time.seconds = 40.0
    assert follower.look().news == ()
    assert follower.pause_s == 10.0
    done[0] = 1
    time.seconds = 41.0

    assert [ended.slide.slide_id for ended in follower.look().news] == ["a"]
    assert follower.pause_s == 0.5


def test_at_rest_the_store_is_looked_into_once_a_minute(store, time, monkeypatch, tmp_path):
    """Someone else may write to it, too."""
    monkeypatch.setattr(following, "look", lambda _: [WorkerState("reporter", 1, "http://x", answers=True)])
    follower = Follower(StoreSight(store), tmp_path, now=time.now, clock=time.clock)
    follower.look()
    planted.letter(store, planted.scan(store, "a"))
    time.seconds = 61.0

    assert [ended.slide.slide_id for ended in follower.look().news] == ["a"]


def test_at_rest_the_index_is_looked_at_every_two_seconds_however_often_one_asks(time, monkeypatch, tmp_path):
    class Looks:
        still_s = IndexSight.still_s
        count = 0

        def look(self):
            self.count += 1
            return Seen(())

    monkeypatch.setattr(following, "look", lambda _: [WorkerState("reporter", 1, "http://x", answers=True)])
    looks = Looks()
    follower = Follower(looks, tmp_path, now=time.now, clock=time.clock)
    follower.look()
    time.seconds, looks.count = 20.0, 0
    while time.seconds < 40.0:
        time.seconds += 0.5
        follower.look()

    assert looks.count == 10


def test_of_slides_that_are_waited_for_the_letters_of_others_are_not_read(store, time, monkeypatch):
    for slide_id in "abc":
        planted.letter(store, planted.scan(store, slide_id))
    follower = Follower(StoreSight(store, only={"b", "nowhere"}), None, now=time.now, clock=time.clock)
    listed = type(store).list

    def elsewhere(self, prefix=""):
        assert not prefix.startswith(LETTERS), "letters are listed"
        return listed(self, prefix)

    monkeypatch.setattr(type(store), "list", elsewhere)

    assert [(slide.slide_id, slide.state) for slide in follower.look().slides] == [("b", "dead-letter")]

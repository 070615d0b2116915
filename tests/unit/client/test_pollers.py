"""Polling the index costs little and reports every end once, even while the index is rebuilt."""

from __future__ import annotations

import os
import time

import planted_objects as planted
import pytest
from many_slides import plant_many

from histgen_lib.catalogue import index as indices
from histgen_lib.catalogue.index import Index, make_index, remove_index, store_name
from histgen_lib.catalogue.indexer import Indexer
from histgen_lib.catalogue.replay import replay
from histgen_lib.client import following as sights
from histgen_lib.client.connection import Target, connect
from histgen_lib.client.following import Follower, IndexPoller, StorePoller, open_poller
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.storage import StorageSettings, open_store


class Stack:
    """A home in which a stack seems to run, and what its gateway does to keep the index."""

    def __init__(self, folder) -> None:
        self.home, self.objects = StackHome(folder), folder / "objects"
        self.storage = StorageSettings(f"file:{self.objects}")
        self.store = open_store(self.storage)
        self.index: Index | None = None

    def lost_index(self) -> None:
        """Take the index away, and make one that nothing is in."""
        if self.index:
            self.index.close()
        remove_index(self.home.index_path)
        self.index = make_index(self.home.index_path, store_name(self.storage))
        self.indexer = Indexer(self.store, self.index)

    def keep(self, *touched: str) -> None:
        """Have these slides looked at, and the index made whole."""
        self.index.touch(touched)
        self.indexer.turn()
        while not self.index.fact("whole"):
            self.indexer.turn()

    def drafted(self, slide_id: str) -> None:
        planted.scan(self.store, slide_id)
        planted.draft(self.store, slide_id)

    def age(self, seconds: float) -> None:
        """Have everything in the store written so long ago."""
        for path in self.objects.rglob("*.json"):
            os.utime(path, (time.time() - seconds,) * 2)

    def connection(self):
        return connect(Target(home=self.home.folder), {})


@pytest.fixture
def stack(tmp_path):
    new = Stack(tmp_path / "home")
    new.home.folder.chmod(0o700)
    new.lost_index()
    with new.home.locked():
        new.home.write(StackRecord(1, "http://127.0.0.1:9", "", new.storage.url, None, "onnx", ""))
        yield new


def news_of(sight) -> list[tuple[str, str]]:
    return [(slide.slide_id, slide.state) for slide in sight.poll().news]


@pytest.fixture
def sight(stack):
    """Look through the index of an empty stack for the first time."""
    stack.keep()
    sight = open_poller(stack.connection())
    assert news_of(sight) == []
    return sight


def test_an_end_is_reported_once_and_none_from_before_the_first_poll(stack):
    stack.drafted("old")
    stack.keep()
    sight = open_poller(stack.connection())
    assert news_of(sight) == []
    stack.drafted("a")
    planted.letter(stack.store, planted.scan(stack.store, "b"))
    stack.keep("a", "b")

    assert sorted(news_of(sight)) == [("a", "drafted"), ("b", "dead-letter")]
    assert news_of(sight) == []
    stack.keep("a", "b", "old")
    assert news_of(sight) == []
    assert sight.poll().totals == {"drafted": 2, "dead-letter": 1}


def test_an_end_found_during_a_poll_is_reported_once(stack, sight, monkeypatch):
    planted.scan(stack.store, "b")
    stack.drafted("a")
    stack.keep("a", "b")
    last_number = Index.last_number

    def found_meanwhile(index: Index) -> int:
        last = last_number(index)
        planted.draft(stack.store, "b")
        stack.keep("b")
        return last

    with monkeypatch.context() as patched:
        patched.setattr(Index, "last_number", found_meanwhile)
        before = news_of(sight)
    assert [*before, *news_of(sight)] == [("a", "drafted"), ("b", "drafted")]


def test_both_ends_of_a_replayed_slide_are_reported_even_without_a_poll_in_between(stack, sight):
    planted.letter(stack.store, planted.scan(stack.store, "a"))
    stack.keep("a")
    list(replay(stack.store, Broker()))
    stack.keep("a")
    planted.draft(stack.store, "a")
    stack.keep("a")

    assert news_of(sight) == [("a", "dead-letter"), ("a", "drafted")]
    assert news_of(sight) == []


class Broker:
    def publish(self, topic, key, event) -> None: ...


def test_while_the_index_is_rebuilt_old_ends_are_counted_and_new_ones_reported(stack):
    """The index never saw them unfinished; the time of the end tells them apart."""
    for slide_id in ("old", "older"):
        stack.drafted(slide_id)
    planted.letter(stack.store, planted.scan(stack.store, "given-up"))
    stack.age(60)
    sight = open_poller(stack.connection())
    assert (news_of(sight), sight.poll().whole) == ([], False)
    stack.drafted("new")
    stack.keep()
    seen = sight.poll()

    assert [slide.slide_id for slide in seen.news] == ["new"]
    assert (seen.whole, seen.totals) == (True, {"drafted": 3, "dead-letter": 1})


def test_a_rebuilt_index_reports_no_end_twice_and_misses_none(stack, sight):
    for slide_id in "xyz":
        stack.drafted(slide_id)
    stack.keep("x", "y", "z")
    assert news_of(sight) == [("x", "drafted"), ("y", "drafted"), ("z", "drafted")]
    stack.drafted("b")
    remove_index(stack.home.index_path)
    seen = sight.poll()
    assert (seen.news, seen.whole, seen.totals) == ((), False, {"drafted": 3})
    stack.lost_index()
    stack.drafted("c")
    stack.keep()

    assert sorted(news_of(sight)) == [("b", "drafted"), ("c", "drafted")]
    assert news_of(sight) == []


def test_a_draft_written_again_is_not_reported_by_a_rebuilt_index(stack, sight):
    """Its time is another then."""
    stack.drafted("a")
    stack.keep("a")
    assert news_of(sight) == [("a", "drafted")]
    stack.lost_index()
    stack.age(-5)
    stack.keep()

    assert news_of(sight) == []
    assert sight.poll().totals == {"drafted": 1}


def test_a_slide_that_comes_back_to_an_earlier_draft_has_ended_again(stack, sight):
    for mpp in (0.5, 0.45, 0.5):
        planted.scan(stack.store, "a", mpp=mpp)
        planted.draft(stack.store, "a", mpp=mpp)
        stack.keep("a")
        assert news_of(sight) == [("a", "drafted")]
    stack.lost_index()
    stack.keep()
    assert news_of(sight) == []


def test_an_end_found_long_afterwards_is_counted_but_not_reported(stack, sight):
    stack.drafted("brought-here")
    stack.age(7200)
    stack.keep("brought-here")

    assert news_of(sight) == []
    assert sight.poll().totals == {"drafted": 1}


def test_a_poll_of_the_index_makes_no_request_to_the_store(stack, monkeypatch):
    plant_many(stack.objects, 100)
    stack.keep()
    for name in ("list", "get", "find", "head"):
        monkeypatch.setattr(type(stack.store), name, lambda *_: pytest.fail("the store is asked"))
    picture = Follower(open_poller(stack.connection()), None).poll()

    assert picture.counts == {"drafted": 70, "dead-letter": 20, "scanned": 10}
    assert picture.waiting == 10
    shown = [slide.slide_id for slide in picture.slides]
    assert (shown[0], shown[10], len(shown)) == ("slide-000099", "slide-000098", 60)


def test_the_cost_of_a_poll_does_not_depend_on_the_number_of_slides(tmp_path, monkeypatch):
    few = steps_of_a_look(tmp_path / "few", 100, monkeypatch)
    many = steps_of_a_look(tmp_path / "many", 2000, monkeypatch)

    assert 0 < many < 1.2 * few


def steps_of_a_look(folder, count: int, monkeypatch) -> int:
    """Count the steps that SQLite does."""
    stack, steps = Stack(folder), [0]
    connected = indices._connected

    def count_steps() -> None:
        steps[0] += 1

    def counted(path):
        connection = connected(path)
        connection.set_progress_handler(count_steps, 1)
        return connection

    stack.lost_index()
    plant_many(stack.objects, count)
    stack.keep()
    folder.chmod(0o700)
    with stack.home.locked(), monkeypatch.context() as patched:
        stack.home.write(StackRecord(1, "http://127.0.0.1:9", "", stack.storage.url, None, "onnx", ""))
        sight = open_poller(stack.connection())
        sight.poll()
        patched.setattr(indices, "_connected", counted)
        sight.poll()
    return steps[0]


def test_a_damaged_index_is_removed_so_that_its_keeper_rebuilds_it(stack):
    stack.drafted("a")
    stack.keep()
    sight = open_poller(stack.connection())
    before = sight.poll()
    stack.index.close()
    stack.index = None
    for path in stack.home.folder.glob("index.db*"):
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 65536)
    seen = sight.poll()

    assert (seen.slides, seen.totals, seen.whole) == (before.slides, {"drafted": 1}, False)
    stack.lost_index()
    stack.keep()
    assert sight.poll() == before


def test_without_a_usable_index_the_store_is_read(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(sights, "_INDEX_WAIT_S", 0.0)
    assert isinstance(open_poller(stack.connection()), IndexPoller)  # it is being made anew
    remote = connect(Target(store=stack.storage.url), {})
    assert isinstance(open_poller(remote), StorePoller)
    make_index(stack.home.index_path, "elsewhere")
    assert isinstance(open_poller(stack.connection()), StorePoller)


def test_the_index_of_a_stopped_stack_is_usable_once_it_is_complete(tmp_path):
    stack = Stack(tmp_path / "home")
    stack.lost_index()
    stack.home.write(StackRecord(1, "http://127.0.0.1:9", "", stack.storage.url, None, "onnx", ""))
    planted.scan(stack.store, "a")
    assert isinstance(open_poller(stack.connection()), StorePoller)
    stack.keep()
    planted.draft(stack.store, "a")  # as the last thing that it did
    sight = open_poller(stack.connection())

    assert isinstance(sight, IndexPoller)
    assert sight.poll().totals == {"drafted": 1}

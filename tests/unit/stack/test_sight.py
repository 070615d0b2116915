"""A look through the index costs little and tells every end once: also while the index is made anew."""

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
from histgen_lib.client import sight as sights
from histgen_lib.client.connection import Stated, connect
from histgen_lib.client.following import Follower
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.client.sight import IndexSight, StoreSight, sight_of
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
        return connect(Stated(home=self.home.folder), {})


@pytest.fixture
def stack(tmp_path):
    made = Stack(tmp_path / "home")
    made.home.folder.chmod(0o700)
    made.lost_index()
    with made.home.locked():
        made.home.write(StackRecord(1, "http://127.0.0.1:9", "", made.storage.url, None, "onnx", ""))
        yield made


def told(sight) -> list[tuple[str, str]]:
    return [(slide.slide_id, slide.state) for slide in sight.look().news]


@pytest.fixture
def sight(stack):
    """Look through the index of an empty stack for the first time."""
    stack.keep()
    sight = sight_of(stack.connection())
    assert told(sight) == []
    return sight


def test_an_end_is_told_once_and_none_of_before_the_first_look(stack):
    stack.drafted("old")
    stack.keep()
    sight = sight_of(stack.connection())
    assert told(sight) == []
    stack.drafted("a")
    planted.letter(stack.store, planted.scan(stack.store, "b"))
    stack.keep("a", "b")

    assert sorted(told(sight)) == [("a", "drafted"), ("b", "dead-letter")]
    assert told(sight) == []
    stack.keep("a", "b", "old")
    assert told(sight) == []
    assert sight.look().totals == {"drafted": 2, "dead-letter": 1}


def test_an_end_that_is_found_in_the_middle_of_a_look_is_told_once(stack, sight, monkeypatch):
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
        before = told(sight)
    assert [*before, *told(sight)] == [("a", "drafted"), ("b", "drafted")]


def test_a_slide_that_ends_again_after_a_replay_is_told_twice_though_nobody_looked_in_between(stack, sight):
    planted.letter(stack.store, planted.scan(stack.store, "a"))
    stack.keep("a")
    list(replay(stack.store, Broker()))
    stack.keep("a")
    planted.draft(stack.store, "a")
    stack.keep("a")

    assert told(sight) == [("a", "dead-letter"), ("a", "drafted")]
    assert told(sight) == []


class Broker:
    def publish(self, topic, key, event) -> None: ...


def test_while_the_index_is_made_anew_old_ends_are_counted_and_new_ones_told(stack):
    """None of them was ever seen unfinished by this index: the time of the end tells them apart."""
    for slide_id in ("old", "older"):
        stack.drafted(slide_id)
    planted.letter(stack.store, planted.scan(stack.store, "given-up"))
    stack.age(60)
    sight = sight_of(stack.connection())
    assert (told(sight), sight.look().whole) == ([], False)
    stack.drafted("new")
    stack.keep()
    seen = sight.look()

    assert [slide.slide_id for slide in seen.news] == ["new"]
    assert (seen.whole, seen.totals) == (True, {"drafted": 3, "dead-letter": 1})


def test_an_index_that_is_lost_and_made_anew_tells_nothing_twice_and_leaves_nothing_out(stack, sight):
    for slide_id in "xyz":
        stack.drafted(slide_id)
    stack.keep("x", "y", "z")
    assert told(sight) == [("x", "drafted"), ("y", "drafted"), ("z", "drafted")]
    stack.drafted("b")
    remove_index(stack.home.index_path)
    seen = sight.look()
    assert (seen.news, seen.whole, seen.totals) == ((), False, {"drafted": 3})
    stack.lost_index()
    stack.drafted("c")
    stack.keep()

    assert sorted(told(sight)) == [("b", "drafted"), ("c", "drafted")]
    assert told(sight) == []


def test_a_draft_that_is_written_once_more_is_not_told_by_another_index(stack, sight):
    """Its time is another then."""
    stack.drafted("a")
    stack.keep("a")
    assert told(sight) == [("a", "drafted")]
    stack.lost_index()
    stack.age(-5)
    stack.keep()

    assert told(sight) == []
    assert sight.look().totals == {"drafted": 1}


def test_a_slide_that_comes_back_to_an_earlier_draft_has_ended_again(stack, sight):
    for mpp in (0.5, 0.45, 0.5):
        planted.scan(stack.store, "a", mpp=mpp)
        planted.draft(stack.store, "a", mpp=mpp)
        stack.keep("a")
        assert told(sight) == [("a", "drafted")]
    stack.lost_index()
    stack.keep()
    assert told(sight) == []


def test_an_end_that_is_found_long_after_is_counted_and_told_to_nobody(stack, sight):
    stack.drafted("brought-here")
    stack.age(7200)
    stack.keep("brought-here")

    assert told(sight) == []
    assert sight.look().totals == {"drafted": 1}


def test_a_look_asks_the_store_nothing(stack, monkeypatch):
    plant_many(stack.objects, 100)
    stack.keep()
    for name in ("list", "get", "find", "head"):
        monkeypatch.setattr(type(stack.store), name, lambda *_: pytest.fail("the store is asked"))
    picture = Follower(sight_of(stack.connection()), None).look()

    assert picture.counts == {"drafted": 70, "dead-letter": 20, "scanned": 10}
    assert picture.waiting == 10
    shown = [slide.slide_id for slide in picture.slides]
    assert (shown[0], shown[10], len(shown)) == ("slide-000099", "slide-000098", 60)


def test_a_look_costs_the_same_however_many_slides_there_are(tmp_path, monkeypatch):
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
        sight = sight_of(stack.connection())
        sight.look()
        patched.setattr(indices, "_connected", counted)
        sight.look()
    return steps[0]


def test_a_damaged_index_is_removed_for_its_keeper_to_make_another(stack):
    stack.drafted("a")
    stack.keep()
    sight = sight_of(stack.connection())
    before = sight.look()
    stack.index.close()
    stack.index = None
    for path in stack.home.folder.glob("index.db*"):
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 65536)
    seen = sight.look()

    assert (seen.slides, seen.totals, seen.whole) == (before.slides, {"drafted": 1}, False)
    stack.lost_index()
    stack.keep()
    assert sight.look() == before


def test_without_an_index_of_use_the_store_is_read(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(sights, "_PATIENCE_S", 0.0)
    assert isinstance(sight_of(stack.connection()), IndexSight)  # it is being made anew
    remote = connect(Stated(store=stack.storage.url), {})
    assert isinstance(sight_of(remote), StoreSight)
    make_index(stack.home.index_path, "elsewhere")
    assert isinstance(sight_of(stack.connection()), StoreSight)


def test_of_a_stack_that_stopped_an_index_is_of_use_once_it_is_whole(tmp_path):
    stack = Stack(tmp_path / "home")
    stack.lost_index()
    stack.home.write(StackRecord(1, "http://127.0.0.1:9", "", stack.storage.url, None, "onnx", ""))
    planted.scan(stack.store, "a")
    assert isinstance(sight_of(stack.connection()), StoreSight)
    stack.keep()
    planted.draft(stack.store, "a")  # as the last thing that it did
    sight = sight_of(stack.connection())

    assert isinstance(sight, IndexSight)
    assert sight.look().totals == {"drafted": 1}

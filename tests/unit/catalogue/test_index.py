"""The index soon agrees with the store, at a cost that does not grow with the store."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import time
from dataclasses import replace

import planted_objects as planted
import pytest
from many_slides import plant_many

from histgen_lib.catalogue import index as indices
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.index import make_index, open_index
from histgen_lib.catalogue.indexer import Indexer, look_up, settle
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.replay import replay
from histgen_lib.errors import TransientError
from histgen_lib.events import BagReady
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

CASE = {"case_id": "C", "case_slides": ("a", "b")}


class Kept:
    """A store with its index, a clock that is moved by hand, and a list of the keys that are read."""

    def __init__(self, folder, monkeypatch) -> None:
        self.store = open_store(StorageSettings(f"file:{folder / 'objects'}"))
        self.path = folder / "index.db"
        self.index = make_index(self.path, "store")
        self.seconds, self.keys_read = 1e9, []
        for name in ("get", "find", "head", "list"):
            monkeypatch.setattr(type(self.store), name, self._counted(getattr(type(self.store), name)))
        self.indexer = self.restarted()

    def restarted(self) -> Indexer:
        """Make the indexer of a process that knows nothing but what is stored."""
        self.indexer = Indexer(self.store, self.index, clock=lambda: self.seconds, now=lambda: self.seconds)
        return self.indexer

    def turn(self, seconds: float = 0.0, turns: int = 1) -> None:
        self.seconds += seconds
        for _ in range(turns):
            self.indexer.turn()

    def until_whole(self) -> None:
        while not self.index.fact("whole"):
            self.indexer.turn()

    def states(self) -> dict[str, str]:
        return {slide.slide_id: slide.state for slide in self.index.page()}

    def _counted(self, call):
        def counted(store: ObjectStore, key: str = "", *rest):
            self.keys_read.append(key)
            return call(store, key, *rest)

        return counted


@pytest.fixture
def kept(tmp_path, monkeypatch):
    return Kept(tmp_path, monkeypatch)


class Broker:
    def publish(self, topic, key, event):
        self.event = event


def test_the_store_is_indexed_without_any_hint(kept):
    planted.draft(kept.store, "a")
    planted.scan(kept.store, "a")
    planted.letter(kept.store, planted.scan(kept.store, "b"))
    planted.scan(kept.store, "c")
    assert kept.index.counts() == {}
    kept.until_whole()

    assert kept.states() == {"a": "drafted", "b": "dead-letter", "c": "scanned"}
    assert kept.index.counts() == {"drafted": 1, "dead-letter": 1, "scanned": 1}
    drafted, *others = Overview(kept.store).slides()
    shown = [replace(drafted, draft=replace(drafted.draft, parts=())), *others]
    assert sorted(kept.index.page(), key=lambda slide: slide.slide_id) == shown


def test_a_touched_slide_is_looked_at_in_the_next_turn_without_listing(kept):
    kept.until_whole()
    planted.scan(kept.store, "a")
    kept.index.touch(["a"])
    kept.keys_read.clear()
    kept.turn()

    assert kept.states() == {"a": "scanned"}
    assert "slides/" not in kept.keys_read


def test_the_index_follows_a_slide_through_all_its_states(kept):
    scanned = planted.scan(kept.store, "a")
    kept.until_whole()
    planted.bag(kept.store, "a")
    kept.turn(2)
    assert kept.states() == {"a": "bagged"}
    ready = BagReady("a", scanned.data.uri, scanned.data.content_id, "k", "s", "d", 1, 1)
    planted.letter(
        kept.store, scanned.then(ready, source="/histgen/tiler", now=planted.NOON), worker="reporter"
    )
    kept.turn(2)
    assert kept.states() == {"a": "dead-letter"}
    broker = Broker()
    assert [one.event.id for one in replay(kept.store, broker, now=lambda: planted.NOON)] == [broker.event.id]
    kept.index.touch(["a"])
    kept.turn()
    assert kept.states() == {"a": "bagged"}
    planted.letter(kept.store, broker.event)  # given up again, now under the id of the replay
    kept.turn(2)
    assert kept.states() == {"a": "dead-letter"}
    planted.draft(kept.store, "a")
    planted.scan(kept.store, "a", mpp=0.5)
    kept.index.touch(["a"])
    kept.turn()

    assert kept.states() == {"a": "drafted"}


def test_changes_by_others_are_found_by_listing(kept):
    planted.letter(kept.store, planted.scan(kept.store, "a"))
    planted.draft(kept.store, "b")
    planted.scan(kept.store, "b")
    kept.until_whole()
    planted.scan(kept.store, "new")
    planted.scan(kept.store, "b", data="rescanned")
    kept.store.delete("dead-letter/" + kept.index.of("a")[0].letter.event_id + ".json")
    kept.turn(3600, turns=2)

    assert kept.states() == {"a": "scanned", "b": "scanned", "new": "scanned"}
    kept.store.delete(keys.scanned_key("new"))
    kept.turn(3600, turns=2)
    assert kept.states() == {"a": "scanned", "b": "scanned"}


def test_a_refused_file_is_listed_beside_the_owner_of_its_id_until_it_is_taken_in_under_another(kept):
    planted.scan(kept.store, "a", uri="file:///one/a.svs")
    refused = planted.scan(kept.store, "a", data="other", uri="file:///two/a.svs")
    letter = planted.letter(kept.store, refused, worker="gateway")
    planted.scan(kept.store, "a", uri="file:///one/a.svs")
    kept.until_whole()
    assert sorted((one.state, one.uri) for one in kept.index.of("a")) == [
        ("dead-letter", "file:///two/a.svs"),
        ("scanned", "file:///one/a.svs"),
    ]
    assert [one.letter for one in look_up(kept.store, kept.index, ["a"]) if one.letter] == [letter]
    planted.scan(kept.store, "a-2", data="other", uri="file:///two/a-2.svs")
    kept.store.put(f"{keys.contents_prefix(refused.data.content_id)}e.json", b"{}")
    kept.index.touch(["a-2"])
    kept.turn(turns=2)

    assert kept.states() == {"a": "scanned", "a-2": "scanned"}
    assert [one.state for one in kept.index.of("a")] == ["scanned"]


def test_a_letter_of_no_slide_is_counted_until_its_object_is_gone(kept):
    kept.store.put(
        "dead-letter/x.json",
        b'{"schema":1,"event_id":"x","code":"event-type","message":"m","hint":"h","attempts":0,'
        b'"worker":"tiler","position":"t/0/1","sha256":"s","size_bytes":3}',
    )
    kept.until_whole()
    assert kept.states() == {"unknown": "dead-letter"}
    kept.store.delete("dead-letter/x.json")
    kept.turn(3600, turns=2)

    assert kept.states() == {}


def test_the_other_slides_of_a_case_are_looked_at_when_one_changes(kept):
    for slide_id in "ab":
        planted.scan(kept.store, slide_id, **CASE)
    planted.bag(kept.store, "a")
    kept.until_whole()
    for _ in range(9):
        kept.turn(10)  # by now they are looked at seldom
    kept.index.touch(["b"])
    planted.bag(kept.store, "b")
    planted.draft(kept.store, "C", "a", "b")
    kept.turn(turns=2)

    assert kept.states() == {"a": "drafted", "b": "drafted"}


def test_a_slide_that_only_waits_for_others_of_its_case_is_not_the_oldest(kept):
    for slide_id in "ab":
        planted.scan(kept.store, slide_id, **CASE)
    planted.bag(kept.store, "a")
    kept.until_whole()
    assert kept.index.oldest_scan()
    kept.store.put(keys.case_slide_key("C", "a"), b"{}")
    planted.letter(kept.store, planted.scan(kept.store, "b", **CASE))
    kept.index.touch("ab")
    kept.turn(turns=2)
    assert kept.states() == {"a": "bagged", "b": "dead-letter"}
    assert kept.index.unfinished() == 1
    assert not kept.index.oldest_scan()
    planted.bag(kept.store, "b")
    kept.store.put(keys.case_slide_key("C", "b"), b"{}")
    kept.index.touch("ab")
    kept.turn(turns=2)

    assert kept.index.oldest_scan()


def test_copies_are_listed_with_their_slide(kept):
    planted.scan(kept.store, "a")
    kept.store.put(keys.copy_key("other", "a"), b"{}")
    kept.until_whole()

    assert kept.index.of("a")[0].copies == ("other",)
    assert Overview(kept.store).slides() == kept.index.page()


def test_pages_list_unfinished_slides_first_then_the_newest(tmp_path, kept):
    plant_many(tmp_path / "objects", 30)
    kept.until_whole()
    pages = [[slide.slide_id for slide in kept.index.page(limit=10, offset=start)] for start in (0, 10, 20)]
    names = [name for page in pages for name in page]

    assert len(set(names)) == 30
    assert names[:4] == ["slide-000029", "slide-000019", "slide-000009", "slide-000028"]
    assert names[-1] == "slide-000000"
    letters = kept.index.page(["dead-letter"], limit=2)
    assert [slide.slide_id for slide in letters] == ["slide-000028", "slide-000027"]


@pytest.mark.parametrize("count", [100, 2000])
def test_the_cost_of_a_look_does_not_depend_on_the_number_of_slides(tmp_path, kept, count):
    totals = plant_many(tmp_path / "objects", count)
    kept.until_whole()
    assert kept.index.counts() == totals
    kept.keys_read.clear()
    assert len(look_up(kept.store, kept.index, ["slide-000007"])) == 1
    kept.index.touch(["slide-000007", "slide-000009"])
    kept.turn()

    assert 0 < len(kept.keys_read) < 40 + 20 * 64  # a turn looks at no more than a batch
    kept.keys_read.clear()
    kept.index.page(limit=60)
    kept.index.counts()
    assert kept.keys_read == []


def test_an_end_is_news_only_once(kept, monkeypatch):
    kept.seconds = time.time()
    planted.letter(kept.store, planted.scan(kept.store, "a"))
    planted.scan(kept.store, "b")
    kept.until_whole()
    for _ in range(3):
        kept.index.touch(["a", "b"])
        kept.turn()
    assert [end.slide.slide_id for end in kept.index.ends(0, 1, 0.0)] == ["a"]
    monkeypatch.setattr(indices, "_NEWS", 2)
    for data in ("first", "second", "third"):
        planted.draft(kept.store, "b", data=data)
        planted.scan(kept.store, "b", data=data)
        kept.index.touch(["b"])
        kept.turn()

    assert len(kept.index.ends(0, 4, 0.0)) == 2
    assert [len(kept.index.ends(number, 4, 0.0)) for number in (2, 3, 4)] == [2, 1, 0]
    assert len(kept.index.ends(0, 3, 0.0)) == 1
    assert kept.index.last_number() == 4


def test_an_idle_index_does_not_read_the_store(kept):
    planted.draft(kept.store, "a")
    planted.scan(kept.store, "a")
    kept.until_whole()
    kept.keys_read.clear()
    kept.turn(1)
    kept.turn(1)

    assert kept.keys_read == []


def test_after_downtime_unfinished_slides_are_looked_at_before_ended_ones(tmp_path, kept):
    plant_many(tmp_path / "objects", 200)
    kept.until_whole()
    kept.seconds += 10 * 86400
    first = [due.subject for due in kept.index.due(kept.seconds, 30)]

    assert {int(name[-3:]) % 10 for name in first[:20]} == {9}
    assert len(first) == 30


def test_a_change_during_a_look_causes_another_look(kept, monkeypatch):
    planted.scan(kept.store, "a")
    kept.until_whole()
    kept.index.touch(["a"])
    write = type(kept.index).write

    def note_meanwhile(index, looked):
        if looked and not planted_since:
            planted_since.append(planted.draft(kept.store, "a"))
            index.touch(["a"])
        write(index, looked)

    planted_since: list[str] = []
    monkeypatch.setattr(type(kept.index), "write", note_meanwhile)
    kept.turn()
    kept.turn()

    assert kept.states() == {"a": "drafted"}


def test_an_outage_of_the_store_leaves_no_gap_in_the_index(kept, monkeypatch):
    planted.scan(kept.store, "a")
    away = [True]
    listing = type(kept.store).list

    def listed(store, prefix=""):
        if away:
            away.pop()
            raise TransientError("storage-unavailable", "It is away.")
        return listing(store, prefix)

    monkeypatch.setattr(type(kept.store), "list", listed)
    with pytest.raises(TransientError):
        kept.turn()
    kept.until_whole()

    assert kept.states() == {"a": "scanned"}


def test_all_unfinished_slides_of_a_stopped_stack_are_looked_at_once(kept):
    planted.scan(kept.store, "a")
    planted.scan(kept.store, "b")
    kept.until_whole()
    planted.draft(kept.store, "a")
    settle(kept.store, kept.index)
    assert kept.states() == {"a": "drafted", "b": "scanned"}
    kept.keys_read.clear()
    settle(kept.store, kept.index)
    assert kept.keys_read == []
    planted.draft(kept.store, "b")
    kept.index.touch(["b"])
    settle(kept.store, kept.index)

    assert kept.states() == {"a": "drafted", "b": "drafted"}


@pytest.mark.parametrize("harm", ["missing", "damaged", "another version", "another store"])
def test_an_unusable_index_is_ignored_and_made_anew(kept, harm):
    planted.scan(kept.store, "a")
    kept.until_whole()
    kept.index.close()
    if harm == "missing":
        kept.path.unlink()
    elif harm == "damaged":
        kept.path.write_bytes(b"no database" * 1000)
    elif harm == "another version":
        with sqlite3.connect(kept.path) as file:
            file.execute("PRAGMA user_version = 999")
    name = "elsewhere" if harm == "another store" else "store"
    assert open_index(kept.path, name) is None
    kept.index = make_index(kept.path, name)
    assert not kept.index.fact("whole")
    kept.restarted()
    kept.until_whole()

    assert kept.states() == {"a": "scanned"}


def test_an_index_is_readable_only_by_its_owner_and_may_have_any_path(tmp_path):
    odd = tmp_path / "what? a #folder%20 ö"
    odd.mkdir()
    make_index(odd / "index.db", "store").touch(["a"])

    assert {stat.S_IMODE(path.stat().st_mode) for path in odd.iterdir()} == {0o600}
    assert open_index(odd / "index.db", "store") is not None
    shutil.rmtree(odd)

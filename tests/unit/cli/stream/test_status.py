"""`histgen status` lists pages of slides, from the index if there is one, and correctly without."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import planted_objects as planted
import pytest
from many_slides import plant_many

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.index import AT_ONCE, Index, make_index, store_name
from histgen_lib.catalogue.indexer import Indexer
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.errors import InvalidInputError
from histgen_lib.storage import StorageSettings, open_store

COUNT = 30


class Stack:
    """A home that a stack of many slides has left, or one in which a stack seems to run."""

    def __init__(self, folder, histgen) -> None:
        self.home = StackHome(folder)
        self.objects = folder / "objects"
        self.storage = StorageSettings(f"file:{self.objects}")
        with self.home.locked():
            self.home.write(StackRecord(1, "http://127.0.0.1:9", "", self.storage.url, None, "onnx", ""))
        self.store, self._histgen = open_store(self.storage), histgen

    def index(self) -> Index:
        index = make_index(self.home.index_path, store_name(self.storage))
        indexer = Indexer(self.store, index)
        while not index.fact("whole"):
            indexer.turn()
        return index

    def __call__(self, *arguments):
        code, out, err = self._histgen("status", *arguments, "--home", self.home.folder)
        assert code == 0, err
        return out, err

    def json(self, *arguments):
        return json.loads(self("--json", *arguments)[0])


@pytest.fixture
def stack(tmp_path, histgen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return Stack(tmp_path / "home", histgen)


@pytest.fixture
def many(stack):
    stack.totals = plant_many(stack.objects, COUNT)
    return stack


def names(document) -> list[str]:
    return [slide["slide_id"] for slide in document["slides"]]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_page_says_how_many_there_are_and_how_to_see_them(many, indexed):
    if indexed:
        many.index()
    out, err = many("--limit", 4, "--page", 2)

    assert re.findall(r"slide-\d+", out) == ["slide-000027", "slide-000026", "slide-000025", "slide-000024"]
    assert "3 waiting · 0 in progress · 21 drafted · 6 dead letters" in out
    assert "5 to 8 of 30 shown (--page 3 for the next, --state for some, --all for all)" in out
    assert "No stack runs" in err
    assert "no such page" in many("--page", 9)[0]


@pytest.mark.parametrize("indexed", [True, False])
def test_all_pages_together_list_each_slide_once(many, indexed):
    if indexed:
        many.index()
    pages = [many.json("--limit", 7, "--page", page) for page in range(1, 6)]
    found = [name for page in pages for name in names(page)]

    assert found == names(many.json("--all"))
    assert len(set(found)) == len(found) == COUNT
    assert found[:3] == ["slide-000029", "slide-000019", "slide-000009"]
    assert {json.dumps(page["counts"], sort_keys=True) for page in pages} == {
        json.dumps(many.totals, sort_keys=True)
    }
    assert pages[0]["page"] == {"number": 1, "limit": 7, "slides": COUNT}


@pytest.mark.parametrize("indexed", [True, False])
def test_slides_of_some_states_are_paged_too(many, indexed):
    if indexed:
        many.index()
    letters = many.json("--state", "dead-letter", "--limit", 4)
    assert (names(letters)[0], letters["page"]["slides"]) == ("slide-000028", 6)
    assert names(many.json("--state", "unfinished")) == ["slide-000029", "slide-000019", "slide-000009"]
    both = many.json("--state", "scanned", "--state", "dead-letter")

    assert both["page"]["slides"] == 9
    assert both["counts"] == many.totals


def test_with_an_index_the_store_is_not_listed(many, monkeypatch):
    many.index()
    many()  # what the stack left unfinished is looked at once
    for name in ("list", "get", "find", "head"):
        monkeypatch.setattr(type(many.store), name, lambda *_: pytest.fail("the store is asked"))

    assert many.json()["counts"] == many.totals
    assert "slide-000028" in many()[0]


def test_the_last_actions_of_a_stopped_stack_are_shown(many):
    many.index()
    planted.draft(many.store, "slide-000029", data="slide-000029")

    assert many.json()["counts"] == {"drafted": 22, "dead-letter": 6, "scanned": 2}


def test_a_listed_unfinished_slide_is_read_from_the_store(many):
    many.index()
    planted.draft(many.store, "slide-000029", data="slide-000029")
    with many.home.locked():
        document = many.json()

    assert document["counts"] == {"drafted": 22, "dead-letter": 6, "scanned": 2}
    assert document["slides"][0]["state"] == "drafted"


def test_an_incomplete_index_is_reported(many):
    make_index(many.home.index_path, store_name(many.storage)).touch(["slide-000001"])
    assert many.json()["counts"] == many.totals  # nobody keeps it: the store is read
    with many.home.locked():
        document, (_, err) = many.json(), many()

    assert document["index"]["complete"] is False
    assert "not all of them are counted yet" in err


@pytest.mark.parametrize("indexed", [True, False])
def test_watch_counts_all_slides_as_status_does(many, histgen, indexed):
    if indexed:
        many.index()
    code, out, err = histgen("watch", "--json", "--home", many.home.folder)
    document = json.loads(out)

    assert code == 0, err
    assert (document["counts"], document["store_away"]) == (many.totals, None)
    assert document["index"] == ({"complete": True} if indexed else None)
    assert len(document["slides"]) == COUNT


def test_watch_reports_an_incomplete_index(many, histgen):
    make_index(many.home.index_path, store_name(many.storage)).touch(["slide-000001"])
    with many.home.locked():
        code, out, err = histgen("watch", "--once", "--home", many.home.folder)

    assert code == 0, err
    assert "0 waiting · 0 in progress · 0 drafted · 0 dead letters" in out
    assert "not all of them are counted yet" in out


def test_an_outdated_index_of_a_running_stack_is_reported(many):
    many.index().note("kept", "1.0")
    with many.home.locked():
        _, err = many()

    assert "The gateway last updated the index" in err


def test_a_damaged_index_is_skipped_and_removed(many):
    many.index().close()
    path = many.home.index_path
    with closing(sqlite3.connect(path)) as file:
        (size,) = file.execute("PRAGMA page_size").fetchone()
        roots = file.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE 'entry%'").fetchall()
    with path.open("r+b") as file:
        for (root,) in roots:
            file.seek((root - 1) * size)
            file.write(b"\xff" * size)

    assert many.json()["counts"] == many.totals
    assert not many.home.index_path.exists()


@pytest.mark.parametrize("indexed", [True, False])
def test_a_copy_is_shown_as_a_copy_of_its_slide(stack, indexed):
    scanned = planted.scan(stack.store, "a")
    planted.draft(stack.store, "a")
    note = json.dumps({"schema": 1, "slide_id": "a", "uri": "file:///copies/b.svs"}).encode()
    stack.store.put(keys.copy_key("b", "a"), note)
    if indexed:
        stack.index()
    document, (out, _) = stack.json("b"), stack("b")

    assert document["copy_of"] == ["a"]
    assert [(slide["slide_id"], slide["state"]) for slide in document["slide"]] == [("a", "drafted")]
    assert "b is a copy of a" in out
    assert scanned.id in out
    assert "a (copies: b)" in stack()[0]
    assert stack.json()["slides"][0]["copies"] == ["b"]
    assert [slide["copies"] for slide in (*document["slide"], *stack.json("a")["slide"])] == [["b"], ["b"]]


def test_a_name_of_copies_of_two_slides_shows_both(stack):
    for name in "ac":
        planted.scan(stack.store, name)
        stack.store.put(keys.copy_key("b", name), b'{"uri": "file:///%s/b.svs"}' % name.encode())

    assert stack.json("b")["copy_of"] == ["a", "c"]
    assert [slide["slide_id"] for slide in stack.json("b")["slide"]] == ["a", "c"]


def test_a_slide_that_replaced_a_copy_is_not_shown_as_a_copy(stack):
    planted.scan(stack.store, "a")
    planted.scan(stack.store, "b", uri="file:///x/b.svs")
    stack.store.put(keys.copy_key("b", "a"), b'{"uri": "file:///x/b.svs"}')
    document = stack.json("b")

    assert (document["copy_of"], [slide["slide_id"] for slide in document["slide"]]) == ([], ["b"])


def test_replayed_letters_are_marked_in_the_index(many, histgen):
    index = many.index()
    target = ("--home", many.home.folder, "--bus", f"embedded:{many.home.folder / 'bus.db'}")
    assert histgen("replay", "--all", *target)[0] == 0

    assert {due.subject for due in index.due(AT_ONCE, 99)} >= {"slide-000007", "slide-000028"}
    assert many.json()["counts"] == {"drafted": 21, "scanned": 9}


@pytest.mark.parametrize("options", [(), ("--json",), ("a",), ("a", "--json")])
def test_control_characters_in_a_letter_are_shown_and_never_obeyed(stack, options):
    error = InvalidInputError("slide-damaged", "It says \x1b[31m\x9b2J\u202e.", hint="No\x9bhint.")
    planted.letter(stack.store, planted.scan(stack.store, "a"), error)
    out, err = stack(*options)

    assert "slide-damaged" in out
    assert not set(out + err) & set("\x1b\x9b\u202e")


@pytest.mark.parametrize("name", ["", "..", "../../etc", "a\x1b[31m", "\udcff", "x" * 5000])
def test_an_impossible_slide_name_is_an_unknown_slide(stack, histgen, name):
    code, out, _ = histgen("status", name, "--home", stack.home.folder, "--json")
    document = json.loads(out)["error"]
    assert (code, document["code"], len(document["message"]) < 2000) == (65, "slide-unknown", True)


@pytest.mark.parametrize("option", ["--page", "--limit"])
def test_an_absurdly_large_page_is_wrong_usage(many, histgen, option):
    many.index()
    assert many.json(option, 1_000_000)["page"]["slides"] == COUNT
    assert histgen("status", option, 10**20, "--home", many.home.folder)[0] == 2

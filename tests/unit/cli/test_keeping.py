"""`histgen verify` and `histgen prune`: what they say, to whom, and how they end."""

from __future__ import annotations

import json
import os

import planted_objects as planted
import pytest

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.keys import CURSOR, LAST_VERIFICATION
from histgen_lib.catalogue.registry import Owner, claim, write_down
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.storage import StorageSettings, open_store


class Stack:
    """A home that a stack has left, with one slide that waits and one dead letter."""

    def __init__(self, folder, histgen) -> None:
        self.home, self._histgen = StackHome(folder), histgen
        self.objects, url = folder / "objects", f"file:{folder / 'objects'}"
        bus = f"embedded:{folder / 'bus.db'}"
        with self.home.locked():
            self.home.write(StackRecord(1, "http://127.0.0.1:9", bus, url, None, "onnx", ""))
        self.store = open_store(StorageSettings(url))
        for name in ("a", "b"):
            event = planted.scan(self.store, name)
            write_down(self.store, event)
            claim(self.store, name, Owner(event.data.uri, event.data.content_id))
        self.letter = planted.letter(self.store, event)

    def __call__(self, *arguments):
        return self._histgen(*arguments, "--home", self.home.folder)

    def json(self, *arguments):
        code, out, _ = self(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def stack(tmp_path, histgen) -> Stack:
    return Stack(tmp_path / "home", histgen)


def test_a_sound_store_ends_with_0_and_is_counted(stack):
    code, told = stack.json("verify")

    assert code == 0
    assert (told["objects"], told["damaged"], told["objects_damaged"]) == (7, {}, [])
    assert (told["undigested"], told["resumed"]) == (0, False)


def test_what_is_damaged_ends_with_1_and_is_named_and_what_can_be_written_again_is(stack):
    path = stack.objects / keys.scanned_key("a")
    sound = path.read_bytes()
    path.write_bytes(b"")
    code, out, _ = stack("verify")
    assert code == 1
    assert f"damaged: {keys.scanned_key('a')}" in out
    assert "histgen verify --repair" in out
    code, told = stack.json("verify", "--repair", "--dry-run")
    assert (code, told["objects_damaged"][0]["repair"], path.read_bytes()) == (1, "restored", b"")
    code, told = stack.json("verify", "--repair")

    assert (code, told["damaged"]) == (0, {"scan": 1})
    one = told["objects_damaged"][0]
    assert (one["key"], one["slide_id"]) == (keys.scanned_key("a"), "a")
    assert (one["kind"], one["repair"], one["hint"]) == ("scan", "restored", None)
    assert path.read_bytes() == sound
    assert stack("verify")[0] == 0
    told = stack.json("audit", "show", "--slide", "a")[1]["entries"]
    assert [(one["action"], one["what"]) for one in told] == [("repaired", {"slide_id": "a", "kind": "scan"})]


def test_what_nothing_else_tells_of_is_said_to_be_lost_and_the_command_does_not_end_with_0(stack):
    (stack.objects / "dead-letter" / "unknown.json").write_bytes(b"\xff")
    code, out, _ = stack("verify", "--repair")

    assert code == 1
    assert "cannot be written again" in out


def test_metrics_are_left_for_the_textfile_collector(stack, tmp_path):
    stack.store.delete(keys.owner_key("b"))
    stack("verify", "--metrics", tmp_path / "verify.prom")
    text = (tmp_path / "verify.prom").read_text()

    assert 'histgen_verify_damaged_objects{kind="owner"} 1.0' in text
    assert 'histgen_verify_damaged_objects{kind="report"} 0.0' in text
    assert "histgen_verify_objects 6.0" in text


def test_one_that_was_stopped_goes_on_unless_it_is_to_begin_anew(stack):
    stack("verify")
    state = json.loads(stack.store.get(LAST_VERIFICATION))
    stack.store.put(CURSOR, stack.store.get(LAST_VERIFICATION))
    assert state["after"].startswith("slides/")
    code, told = stack.json("verify")
    assert (code, told["resumed"], told["objects"]) == (0, True, 7)
    stack.store.put(CURSOR, stack.store.get(LAST_VERIFICATION))

    assert stack.json("verify", "--restart")[1]["resumed"] is False


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"after": 3}'])
def test_a_damaged_cursor_costs_a_beginning(stack, damage):
    stack.store.put(CURSOR, damage)

    assert stack.json("verify")[1]["objects"] == 7


def old_note(stack) -> None:
    stack.store.put(f"{keys.SEEN}mark", b"{}")
    os.utime(stack.objects / keys.SEEN / "mark", (1.0, 1.0))


def test_a_prune_says_what_it_would_remove_and_removes_nothing_unasked(stack):
    old_note(stack)
    code, out, _ = stack("prune", "--dry-run")
    assert (code, "seen" in out, "would be removed" in out) == (0, True, True)
    code, out, err = stack("prune")
    assert (code, "error[prune-unconfirmed]" in err) == (65, True)
    assert stack.store.head(f"{keys.SEEN}mark")
    assert stack.json("audit", "show")[1]["entries"] == []
    code, told = stack.json("prune", "--yes")

    assert (code, told["removed"]) == (0, {"seen": {"count": 1, "size_bytes": 2}})
    assert [one["action"] for one in stack.json("audit", "show")[1]["entries"]] == ["pruned"]
    assert stack.store.head(f"{keys.SEEN}mark") is None
    assert "nothing to remove" in stack("prune")[1]


def test_kinds_and_days_are_stated_together(stack):
    old_note(stack)

    assert stack.json("prune", "--yes", "--older-than", "letters=1")[1]["removed"] == {}
    assert stack.json("prune", "--yes", "--older-than", "seen=1")[1]["removed"]["seen"]["count"] == 1


@pytest.mark.parametrize("stated", ["", "owners=1", "x"])
def test_days_that_cannot_be_read_are_refused(stack, stated):
    code, _, err = stack("prune", "--yes", "--older-than", stated)

    assert (code, "error[retention-invalid]" in err) == (65, True)


def test_a_repair_is_tried_out_only_where_there_is_one(stack):
    assert "error[verify-contradictory]" in stack("verify", "--dry-run")[2]

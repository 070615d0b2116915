"""`histgen verify` and `histgen prune`: what they print, and their exit codes."""

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


def test_a_sound_store_is_counted_and_ends_with_0(stack):
    code, document = stack.json("verify")

    assert code == 0
    assert (document["objects"], document["damaged"], document["objects_damaged"]) == (7, {}, [])
    assert (document["undigested"], document["resumed"]) == (0, False)


def test_damage_is_named_and_ends_with_1_and_is_repaired_where_possible(stack):
    path = stack.objects / keys.scanned_key("a")
    sound = path.read_bytes()
    path.write_bytes(b"")
    code, out, _ = stack("verify")
    assert code == 1
    assert f"damaged: {keys.scanned_key('a')}" in out
    assert "histgen verify --repair" in out
    code, document = stack.json("verify", "--repair", "--dry-run")
    assert (code, document["objects_damaged"][0]["repair"], path.read_bytes()) == (1, "restored", b"")
    code, document = stack.json("verify", "--repair")

    assert (code, document["damaged"]) == (0, {"scan": 1})
    one = document["objects_damaged"][0]
    assert (one["key"], one["slide_id"]) == (keys.scanned_key("a"), "a")
    assert (one["kind"], one["repair"], one["hint"]) == ("scan", "restored", None)
    assert path.read_bytes() == sound
    assert stack("verify")[0] == 0
    document = stack.json("audit", "show", "--slide", "a")[1]["entries"]
    assert [(one["action"], one["what"]) for one in document] == [
        ("repaired", {"slide_id": "a", "kind": "scan"})
    ]


def test_an_irreparable_object_is_reported_and_the_command_does_not_end_with_0(stack):
    (stack.objects / "dead-letter" / "unknown.json").write_bytes(b"\xff")
    code, out, _ = stack("verify", "--repair")

    assert code == 1
    assert "cannot be repaired" in out


def test_metrics_are_left_for_the_textfile_collector(stack, tmp_path):
    stack.store.delete(keys.owner_key("b"))
    stack("verify", "--metrics", tmp_path / "verify.prom")
    text = (tmp_path / "verify.prom").read_text()

    assert 'histgen_verify_damaged_objects{kind="owner"} 1.0' in text
    assert 'histgen_verify_damaged_objects{kind="report"} 0.0' in text
    assert "histgen_verify_objects 6.0" in text


def test_an_interrupted_run_is_resumed_unless_it_is_to_start_over(stack):
    stack("verify")
    state = json.loads(stack.store.get(LAST_VERIFICATION))
    stack.store.put(CURSOR, stack.store.get(LAST_VERIFICATION))
    assert state["after"].startswith("slides/")
    code, document = stack.json("verify")
    assert (code, document["resumed"], document["objects"]) == (0, True, 7)
    stack.store.put(CURSOR, stack.store.get(LAST_VERIFICATION))

    assert stack.json("verify", "--restart")[1]["resumed"] is False


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"after": 3}'])
def test_a_damaged_cursor_means_starting_over(stack, damage):
    stack.store.put(CURSOR, damage)

    assert stack.json("verify")[1]["objects"] == 7


def old_note(stack) -> None:
    stack.store.put(f"{keys.SEEN}mark", b"{}")
    os.utime(stack.objects / keys.SEEN / "mark", (1.0, 1.0))


def test_a_prune_lists_what_it_would_remove_and_removes_nothing_unconfirmed(stack):
    old_note(stack)
    code, out, _ = stack("prune", "--dry-run")
    assert (code, "seen" in out, "would be removed" in out) == (0, True, True)
    code, out, err = stack("prune")
    assert (code, "error[prune-unconfirmed]" in err) == (65, True)
    assert stack.store.head(f"{keys.SEEN}mark")
    assert stack.json("audit", "show")[1]["entries"] == []
    code, document = stack.json("prune", "--yes")

    assert (code, document["removed"]) == (0, {"seen": {"count": 1, "size_bytes": 2}})
    assert [one["action"] for one in stack.json("audit", "show")[1]["entries"]] == ["pruned"]
    assert stack.store.head(f"{keys.SEEN}mark") is None
    assert "nothing to remove" in stack("prune")[1]


def test_kinds_and_days_are_given_together(stack):
    old_note(stack)

    assert stack.json("prune", "--yes", "--older-than", "letters=1")[1]["removed"] == {}
    assert stack.json("prune", "--yes", "--older-than", "seen=1")[1]["removed"]["seen"]["count"] == 1


@pytest.mark.parametrize("days", ["", "owners=1", "x"])
def test_days_that_cannot_be_read_are_refused(stack, days):
    code, _, err = stack("prune", "--yes", "--older-than", days)

    assert (code, "error[retention-invalid]" in err) == (65, True)


def test_a_dry_run_needs_a_repair(stack):
    assert "error[verify-contradictory]" in stack("verify", "--dry-run")[2]

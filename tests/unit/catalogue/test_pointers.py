"""Pointers move forward only, whatever comes twice, late or at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_kit import Killed, WatchedStore

from histgen_lib.catalogue.pointers import advance, mend_pointer, pointer_faults, read_pointer, recall_pointer
from histgen_lib.storage import StorageSettings, open_store

KEY = "reports/a/latest.json"


@pytest.fixture
def store(tmp_path):
    return WatchedStore(open_store(StorageSettings(f"file:{tmp_path}")))


def move(store, digest: str, **turn: object) -> str:
    value = {"digest": digest, "draft": f"reports/a/{digest}", **turn}
    return advance(store, KEY, value, by="digest")["digest"]


def test_a_pointer_has_the_newest_value_and_lists_earlier_ones_the_latest_first(store):
    for digest in ("d1", "d2", "d3"):
        move(store, digest)

    assert read_pointer(store, KEY, by="digest") == {
        "digest": "d3",
        "draft": "reports/a/d3",
        "previous": ["d2", "d1"],
    }


def test_an_earlier_value_never_moves_a_pointer_back(store):
    for digest in ("d1", "d2"):
        move(store, digest)
    before = store.get(KEY)

    assert move(store, "d1") == "d2"
    assert move(store, "d2") == "d2"
    assert store.get(KEY) == before


def test_a_later_turn_moves_a_pointer_back_and_an_earlier_one_no_longer_does(store):
    for digest in ("d1", "d2"):
        move(store, digest)

    assert move(store, "d1", turn=1) == "d1"
    assert move(store, "d2") == "d1"
    assert move(store, "new", turn=0) == "d1"
    assert move(store, "d1", turn=1) == "d1"
    assert move(store, "d3", turn=1) == "d3"
    assert move(store, "d2", turn=2) == "d2"
    assert read_pointer(store, KEY, by="digest")["previous"] == ["d3", "d1", "d2", "d1"]


def test_if_a_case_has_changed_its_slides_the_turns_of_the_common_ones_decide(store):
    def move_in_turns(digest: str, **turns: int) -> str:
        return move(store, digest, turn=sum(turns.values()), turns=turns)

    assert move_in_turns("d1", a=3, b=0) == "d1"
    assert move_in_turns("d2", b=1, c=0) == "d2"  # a smaller sum, but later
    assert move_in_turns("d3", a=9, b=0) == "d2"  # an earlier turn of b
    assert move_in_turns("d1", a=3, b=0) == "d2"
    assert move_in_turns("d4", x=0) == "d4"
    assert move(store, "d5", turn=0, turns={"x": 0, "a": "damaged"}) == "d5"
    assert move_in_turns("d6", x=0, a=0, b=0) == "d6"


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=12))
def test_after_any_history_a_pointer_has_the_last_new_value(tmp_path_factory, digests):
    store = WatchedStore(open_store(StorageSettings(f"file:{tmp_path_factory.mktemp('p')}")))
    for digest in digests:
        move(store, digest)

    assert read_pointer(store, KEY, by="digest")["digest"] == list(dict.fromkeys(digests))[-1]


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("others", [["other"], ["other", "third"]])
def test_a_late_writer_neither_drops_nor_overwrites_the_values_of_others(store, writes, others):
    """Others start and finish between two of our steps, as if our process had been paused there."""
    move(store, "d1")
    put, left = store.put, [writes]

    def late(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            store.put = put
            for other in others:
                move(store, other)
        return put(*args, **options)

    store.put = late
    move(store, "ours")
    pointer = read_pointer(store, KEY, by="digest")
    order = ["d1", *others, "ours"] if writes == 1 else ["d1", "ours", *others]

    assert [pointer["digest"], *pointer["previous"]] == order[::-1]


def test_a_pointer_that_a_crash_left_behind_its_history_catches_up(store):
    move(store, "d1")
    store.dies_after = 1  # the history's entry is written, the pointer is not
    with pytest.raises(Killed):
        move(store, "d2")
    store.dies_after = None
    assert read_pointer(store, KEY, by="digest")["digest"] == "d1"
    assert list(pointer_faults(store, KEY, by="digest")) == []  # late, not damaged

    assert move(store, "d2") == "d2"
    assert read_pointer(store, KEY, by="digest") == {
        "digest": "d2",
        "draft": "reports/a/d2",
        "previous": ["d1"],
    }


ENTRIES = [KEY, *(f"reports/a/latest.history/{number:06d}.json" for number in (1, 2, 3))]
DAMAGE = [None, b"", b"[]", b'{"digest": 3}', b"\xff", b'{"digest":"d']


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("key", ENTRIES)
def test_one_damaged_or_missing_object_is_read_from_the_others_and_mended(store, key, damage):
    for digest in ("d1", "d2", "d3"):
        move(store, digest)
    before, whole = store.contents(), read_pointer(store, KEY, by="digest")
    store.inner.put(key, damage or b"", if_absent=False) if damage is not None else store.inner.delete(key)

    assert recall_pointer(store, KEY, by="digest") == whole
    assert key in list(pointer_faults(store, KEY, by="digest"))
    assert move(store, "d1") == "d3"
    assert move(store, "d4") == "d4"
    assert read_pointer(store, KEY, by="digest")["previous"] == ["d3", "d2", "d1"]
    mend_pointer(store, KEY, by="digest")
    after = store.contents()

    assert list(pointer_faults(store, KEY, by="digest")) == []
    assert {one for one in before if before[one] != after[one]} <= {KEY, key}


@pytest.mark.parametrize("key", ENTRIES)
def test_a_flipped_bit_is_found_and_does_not_spread_to_the_other_objects(store, key):
    for digest in ("d1", "d2", "d3"):
        move(store, digest, turn=1)
    sound, whole = store.get(key), read_pointer(store, KEY, by="digest")
    for at in range(len(sound)):
        damaged = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
        store.inner.put(key, damaged, if_absent=False)
        assert list(pointer_faults(store, KEY, by="digest")) == [key], damaged
        assert recall_pointer(store, KEY, by="digest") == whole
    mend_pointer(store, KEY, by="digest")

    assert list(pointer_faults(store, KEY, by="digest")) == []
    assert read_pointer(store, KEY, by="digest") == whole


@pytest.mark.parametrize("key", ENTRIES)
def test_a_pointer_without_the_entries_of_another_owner_is_sound_and_mended_as_it_was(store, key):
    def ours(entry) -> bool:
        return not entry["digest"].startswith("other")

    for digest in ("d1", "other", "d2"):
        advance(store, KEY, {"digest": digest, "draft": digest}, by="digest", ours=ours)
    whole = read_pointer(store, KEY, by="digest")
    assert (whole["digest"], whole["previous"]) == ("d2", ["d1"])
    assert list(pointer_faults(store, KEY, by="digest")) == []
    store.inner.delete(key)
    assert list(pointer_faults(store, KEY, by="digest")) == [key]
    mend_pointer(store, KEY, by="digest", ours=ours)

    assert read_pointer(store, KEY, by="digest") == whole
    lost = [key] if key.endswith("2.json") else []  # the only record of another owner's report
    assert list(pointer_faults(store, KEY, by="digest")) == lost


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"digest": 3}', b'{"digest": "x"}', b"\xff"])
def test_a_damaged_pointer_is_written_anew(store, damage):
    store.inner.put(KEY, damage, if_absent=False)
    assert read_pointer(store, KEY, by="digest") is None

    assert move(store, "d1") == "d1"
    assert read_pointer(store, KEY, by="digest")["previous"] == []

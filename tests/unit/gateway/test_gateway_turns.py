"""Slides that return to an earlier state, or were moved, are announced again, one turn later."""

from __future__ import annotations

import shutil

import planted_objects as planted
import pytest
from gateway_fakes import GatewayLab, Killed

from histgen_lib.access.places import ObjectPlace, Roots
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError


def test_a_statement_made_by_mistake_can_be_undone(lab: GatewayLab):
    path = lab.file("a.svs")
    for mpp in (0.5, 0.25, 0.5, 0.5, 0.25):
        lab.submit(path, mpp=mpp)
    turns = [(event.data.mpp, event.data.turn) for event in lab.bus.scanned]

    assert turns == [(0.5, 0), (0.25, 1), (0.5, 2), (0.25, 3)]
    assert len({event.id for event in lab.bus.scanned}) == 4
    assert lab.submit(path).status == "duplicate"


def test_earlier_bytes_at_the_slides_own_place_become_the_latest(lab: GatewayLab):
    statuses = [
        lab.submit(lab.file("a.svs", data)).status for data in (b"one", b"two", b"one", b"one", b"three")
    ]

    assert statuses == ["accepted", "rescan", "accepted", "duplicate", "rescan"]
    assert [event.data.turn for event in lab.bus.scanned] == [0, 1, 2, 3]


def test_a_copy_of_an_earlier_scan_elsewhere_undoes_nothing(lab: GatewayLab):
    first = lab.submit(lab.file("a.svs", b"one"))
    lab.submit(lab.file("a.svs", b"two"))
    copy = lab.submit(lab.file("archive/a.svs", b"one"))

    assert (copy.status, copy.event_id) == ("duplicate", first.event_id)
    assert len(lab.bus.scanned) == 2


@pytest.mark.parametrize("name", ["done/a.svs", "done/a (1).svs"])
def test_a_slide_that_was_moved_before_it_was_drafted_is_announced_from_its_new_place(
    lab: GatewayLab, name: str
):
    path = lab.file("a.svs")
    first = lab.submit(path, mpp=0.25)
    moved = lab.folder / name
    moved.parent.mkdir()
    path.rename(moved)
    missing = InvalidInputError("slide-missing", "It is not there any more.")
    letter = DeadLetter.of_event(lab.bus.scanned[0], missing, attempts=1, worker="tiler")
    lab.store.put(letter.key, letter.to_bytes())
    second = lab.submit(moved)

    data = lab.bus.scanned[-1].data
    assert (second.status, second.slide_id) == ("accepted", "a")
    assert second.event_id != first.event_id
    assert (data.uri, data.turn, data.mpp) == (moved.as_uri(), 1, 0.25)
    assert lab.submit(moved).status == "duplicate"
    moved.rename(path)
    assert lab.submit(path).status == "accepted"


def test_an_object_that_was_moved_is_announced_from_its_new_place(lab: GatewayLab):
    lab.object("lab", "scanning/a.svs")
    lab.submit(ObjectPlace("lab", "scanning/a.svs"))
    lab.object("lab", "done/a.svs")
    assert lab.submit(ObjectPlace("lab", "done/a.svs")).status == "duplicate"  # still a copy
    lab.buckets["lab"].delete("scanning/a.svs")
    assert lab.submit(ObjectPlace("lab", "done/a.svs")).status == "accepted"
    assert lab.bus.scanned[-1].data.uri == "s3://lab/done/a.svs"


def test_a_slide_that_was_moved_after_its_draft_is_not_drafted_again(lab: GatewayLab):
    path = lab.file("a.svs")
    lab.submit(path)
    planted.draft(lab.store, "a", data="pixels")
    moved = lab.folder / "archive.svs"
    path.rename(moved)

    assert lab.submit(moved).status == "duplicate"


def test_a_slide_whose_old_place_cannot_be_checked_was_not_moved(lab: GatewayLab):
    path = lab.file("closed/a.svs")
    lab.submit(path)
    shutil.rmtree(path.parent)
    copy = lab.file("open/a.svs")
    lab.restarted(Roots((copy.parent,)))

    assert lab.submit(copy).status == "duplicate"


@pytest.mark.parametrize("dies_at", ["slides/a/", "gateway/contents/", "gateway/seen/"])
def test_a_kill_while_a_moved_slide_is_announced_leaves_one_event(lab: GatewayLab, dies_at: str):
    path = lab.file("a.svs")
    lab.submit(path)
    moved = path.rename(lab.folder / "b.svs")
    lab.store.dies_at = dies_at
    with pytest.raises(Killed):
        lab.submit(moved, mark="m")
    lab.store.dies_at = ""
    lab.restarted()
    lab.submit(moved)

    assert len({event.id for event in lab.bus.scanned}) == 2
    assert lab.submit(moved).status == "duplicate"


@pytest.mark.parametrize("dies_at", ["slides/a/", "gateway/contents/", "gateway/seen/"])
def test_a_kill_while_a_slide_comes_back_leaves_one_event(lab: GatewayLab, dies_at: str):
    path = lab.file("a.svs")
    for mpp in (0.5, 0.25):
        lab.submit(path, mpp=mpp)
    lab.store.dies_at = dies_at
    with pytest.raises(Killed):
        lab.submit(path, mpp=0.5, mark="m")
    lab.store.dies_at = ""
    lab.restarted()
    lab.submit(path, mpp=0.5)

    assert len({event.id for event in lab.bus.scanned}) == 3
    assert lab.submit(path, mpp=0.5).status == "duplicate"

"""A prune removes only what nobody needs, and may be killed at any moment."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import planted_objects as planted
import pytest
import tiny_model
import whole_store
from job_kit import NOW, JobLab, Killed, scanned

from histgen_lib.catalogue.audit import this_account
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.keys import REPLAYED_LETTERS, SEEN, letter_key
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.pruning import DAY_S, KINDS, Removed, prune, read_retention, tally
from histgen_lib.catalogue.registry import Owner, claim, write_down
from histgen_lib.catalogue.repair import Repair
from histgen_lib.catalogue.verification import Verification
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BAG_READY, Event, SlideScanned, following_id, replay_id
from histgen_lib.testing import MemoryBus

ALL = dict.fromkeys(KINDS, 30.0)


@pytest.fixture(scope="module")
def finished_store(tmp_path_factory, model_dir) -> Path:
    """Make a store in which slide a, and slide b of the case, were scanned a second time."""
    folder = tmp_path_factory.mktemp("rescanned")
    lab = whole_store.make(folder, model_dir)
    for name in "ab":
        again = tiny_model.write_slide(folder / f"{name}.tif", side_px=640, seed=100 + ord(name))
        whole_store.remake(lab, [whole_store.announce(lab, again, name)])
    return folder


@pytest.fixture
def lab(finished_store, tmp_path, model_dir) -> JobLab:
    lab = JobLab.copy_of(finished_store, tmp_path, model_dir)
    age(lab)
    return lab


def age(lab: JobLab, days: float = 31, prefix: str = "") -> None:
    """Make objects look as if they were written so long ago."""
    for key in lab.store.contents(prefix):
        path = Path(lab.store.uri(key).removeprefix("file://"))
        then = path.stat().st_mtime - days * DAY_S
        os.utime(path, (then, then))


def pruned(lab: JobLab, days: dict[str, float] = ALL, **options) -> list[Removed]:
    return list(prune(lab.store, None, days, **options))


def faults(lab: JobLab) -> list[str]:
    return [one.key for step in Verification(lab.store, anew=True).run() for one in step]


def states(lab: JobLab) -> list[tuple[str, str, str]]:
    return [(one.slide_id, one.state, one.end) for one in Overview(lab.store).slides()]


def test_earlier_reports_and_bags_are_removed_and_all_else_stays_sound(lab):
    before, stood = lab.store.contents(), states(lab)
    would = pruned(lab, dry_run=True)
    assert lab.store.contents() == before
    gone = pruned(lab)
    after = lab.store.contents()

    assert gone == would
    assert {one.key: one.size_bytes for one in gone} == {
        key: len(before[key]) for key in set(before) - set(after)
    }
    written = {key for key in after if key.startswith("audit/")}
    assert {key: data for key, data in before.items() if key in after} == {
        key: data for key, data in after.items() if key not in written
    }
    (entry,) = [json.loads(after[key]) for key in written]  # written first, and only if something is removed
    assert (entry["action"], entry["by"], entry["what"]) == (
        "pruned",
        this_account(),
        dict.fromkeys(KINDS, "30"),
    )
    assert set(tally(gone)) == {"reports", "bags"}
    digests = [key.split("/")[:3] for key in after if key.endswith("digests.json")]
    assert sorted(digests)[0][:2] == ["bags", "a"]
    assert [room for room, owner, _ in digests if owner == "a"] == ["bags", "reports"]
    assert (states(lab), faults(lab), pruned(lab)) == (stood, [], [])


def test_a_case_with_a_rescanned_slide_keeps_what_its_report_was_made_of(lab):
    gone = {one.key.split("/")[1] for one in pruned(lab) if one.kind == "bags"}
    named = [lab.store.get(f"cases/C/{name}.json") for name in "bc"]

    assert gone == {"a", "b"}
    left = " ".join(lab.store.contents("bags/"))
    assert all(f"{data.split(b'bag_digest')[1][3:67].decode()}.parquet" in left for data in named)


def test_the_report_of_a_slide_that_has_left_its_case_stays_and_can_be_repaired(lab):
    """The report that slide c was in still covers slide b."""
    path = tiny_model.write_slide(lab.folder / "e.tif", side_px=640, seed=55)
    case = {"case_id": "C", "case_slides": ("c", "e")}
    (of_c,) = [event for event in whole_store.events(lab) if event.key == "c"]
    for event in (of_c, Event.first(scanned(path, slide_id="e"), source="/histgen/g", now=NOW, identity="e")):
        announced = replace(event, id=event.id[::-1], data=replace(event.data, turn=5, **case))
        write_down(lab.store, announced)
        claim(lab.store, announced.key, Owner(announced.data.uri, announced.data.content_id))
        whole_store.remake(lab, [announced])
    stood = states(lab)
    age(lab)
    pruned(lab)
    assert states(lab) == stood
    (draft,) = [end for name, _, end in stood if name == "b"]
    page = draft.replace(".json", ".html")
    assert [draft.split("/")[0], lab.store.head(page) is None] == ["case-reports", False]
    sound = lab.store.get(page)
    lab.store.delete(page)
    assert faults(lab) == [page]
    publisher = MemoryBus()
    assert [one.done for one in Repair(lab.store, publisher).run()] == ["announced"]
    whole_store.remake(lab, publisher.published)

    assert lab.store.get(page) == sound


def test_recent_objects_stay_whatever_age_is_asked_for(lab, finished_store, tmp_path, model_dir):
    (tmp_path / "young").mkdir()
    young = JobLab.copy_of(finished_store, tmp_path / "young", model_dir)

    assert pruned(young) == []
    assert pruned(young, dict.fromkeys(KINDS, 0.0)) == []  # a worker may be at it


@pytest.mark.parametrize("stop", range(12))
def test_a_prune_killed_anywhere_leaves_a_sound_store_and_the_next_removes_the_rest(lab, stop):
    whole = [one.key for one in pruned(lab, dry_run=True)]
    left, delete = [stop], lab.store.delete

    def dying(key: str) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        delete(key)

    lab.store.delete = dying
    with pytest.raises(Killed):
        pruned(lab)
    lab.store.delete = delete

    assert faults(lab) == []
    assert [one.key for one in pruned(lab)] == whole[stop:]


@pytest.mark.parametrize("what", ["unfinished", "without a pointer", "without its events"])
def test_reports_and_bags_of_an_unfinished_or_unreadable_slide_stay(lab, what):
    if what == "unfinished":
        path = tiny_model.write_slide(lab.folder / "third.tif", side_px=640, seed=77)
        whole_store.announce(lab, path, "a")
    elif what == "without a pointer":
        for key in lab.store.contents("reports/a/latest"):
            lab.store.delete(key)
    else:
        for prefix in ("slides/a/", "gateway/contents/", "gateway/owners/a"):
            for key in lab.store.contents(prefix):
                lab.store.delete(key)

    assert not any(one.key.split("/")[1] == "a" for one in pruned(lab))


def test_a_replayed_letter_is_removed_only_once_its_slide_is_drafted(lab):
    """The replayed letter leads to the letter that its replay ended in."""
    by_slide = {event.key: event for event in whole_store.events(lab)}
    for name in "ad":
        event = by_slide[name]
        assert isinstance(event.data, SlideScanned)
        old = DeadLetter.of_event(event, planted.BAD, attempts=1, worker="tiler")
        lab.store.put(old.key.replace("dead-letter/", REPLAYED_LETTERS), old.to_bytes())
    age(lab, prefix=REPLAYED_LETTERS)
    before = states(lab)

    assert [one.key for one in pruned(lab) if one.kind == "letters"] == [
        f"{REPLAYED_LETTERS}{by_slide['a'].id}.json"
    ]
    assert states(lab) == before
    assert lab.store.head(letter_key(by_slide["d"].id))  # the last letter of a slide stays forever


def test_counts_of_attempts_stay_with_their_letter(lab):
    given_up = next(event for event in whole_store.events(lab) if event.key == "d")
    done = following_id(replay_id(given_up.id), BAG_READY)
    for event_id in (given_up.id, done):
        lab.store.put(f"attempts/tiler/{event_id}/1", b"x")
    assert not any(one.kind == "attempts" for one in pruned(lab))
    age(lab, prefix="attempts/")

    assert [one.key for one in pruned(lab) if one.kind == "attempts"] == [f"attempts/tiler/{done}/1"]


def test_kinds_that_are_not_named_stay(lab):
    lab.store.put(f"{SEEN}mark", b"{}")
    age(lab, prefix=SEEN)

    assert [one.kind for one in pruned(lab, {"seen": 30.0})] == ["seen"]
    assert pruned(lab, {"seen": 30.0}) == []
    assert pruned(lab, {}) == []


def test_ages_count_from_the_injected_clock(lab):
    later = planted.NOON.replace(year=2100) + timedelta(days=1)
    assert {one.kind for one in prune(lab.store, None, ALL, now=later, dry_run=True)} == {"reports", "bags"}
    assert list(prune(lab.store, None, ALL, now=planted.NOON.replace(year=2000), dry_run=True)) == []


def test_a_retention_is_read_as_documented():
    assert read_retention("") == {}
    assert read_retention("90") == dict.fromkeys(KINDS, 90.0)
    assert read_retention(" seen = 30 ,reports=0.5") == {"seen": 30.0, "reports": 0.5}


@pytest.mark.parametrize(
    "text", ["x", "-1", "nan", "inf", "seen", "seen=", "owners=3", "seen=1,seen=2", "1,2", "seen=1e9"]
)
def test_an_unreadable_retention_is_refused(text):
    with pytest.raises(InvalidInputError) as caught:
        read_retention(text)
    assert caught.value.code == "retention-invalid"

"""Damage to any object is found, shown beside its slide, and repaired with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import tiny_model
import whole_store
from damage import DAMAGE, damage
from job_kit import NOW, JobLab, WatchedStore, scanned

from histgen_lib.catalogue.integrity import noted_damage
from histgen_lib.catalogue.keys import CURSOR, scanned_key
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.registry import take_in
from histgen_lib.catalogue.repair import Repair
from histgen_lib.catalogue.verification import Verification, check_slide
from histgen_lib.events import Event
from histgen_lib.storage import open_store
from histgen_lib.testing import MemoryBus

OBJECTS = {
    "the bag": ("bags/a/", ".parquet"),
    "the scan record": ("bags/a/", ".scan.json"),
    "the bag's thumbnail": ("bags/a/", ".thumbnail.webp"),
    "draft.json": ("reports/a/", "draft.json"),
    "draft.html": ("reports/a/", "draft.html"),
    "draft.txt": ("reports/a/", "draft.txt"),
    "a picture": ("reports/a/", "heatmap.webp"),
    "the pointer": ("reports/a/", "latest.json"),
    "the pointer's history": ("reports/a/latest.history/", ".json"),
    "scanned.json": ("slides/a/", ".json"),
    "scanned.json of one published by hand": ("slides/h/", ".json"),
    "the owner": ("gateway/owners/a", ""),
    "an event among those of its bytes": ("gateway/contents/", ".json"),
    "an event that was published by hand": ("gateway/by-hand/h/", ".json"),
    "the note of a copy": ("gateway/copies/", "/a"),
    "the letter": ("dead-letter/", ".json"),
    "a case's pointer to a bag": ("cases/C/b.json", ""),
    "the draft of a case": ("case-reports/C/", "draft.json"),
    "a case's pointer to its report": ("case-reports/C/", "latest.json"),
}
UNSEEN_WHERE_MISSING = ("the letter", "the note of a copy")
"""Objects whose contents nothing else in the store knows."""
SLIDES = {"a": "drafted", "b": "drafted", "c": "drafted", "d": "dead-letter", "h": "drafted"}


@pytest.fixture(scope="module")
def finished_store(tmp_path_factory, model_dir) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    whole_store.make(folder, model_dir)
    return folder


@pytest.fixture
def lab(finished_store, tmp_path, model_dir) -> JobLab:
    return JobLab.copy_of(finished_store, tmp_path, model_dir)


def found(lab: JobLab) -> dict[str, str]:
    """Verify to the end; return what is damaged, and why."""
    return {one.key: one.why for step in Verification(lab.store).run() for one in step}


def contents(lab: JobLab) -> dict[str, bytes]:
    kept = lab.store.contents().items()
    return {key: data for key, data in kept if not key.startswith(("verify/", "audit/"))}


def one_of(lab: JobLab, prefix: str, ending: str) -> str:
    return next(key for key in sorted(contents(lab)) if key.startswith(prefix) and key.endswith(ending))


def test_a_sound_store_is_found_sound_and_is_checked_completely(lab):
    verification = Verification(lab.store)

    assert [one for step in verification.run() for one in step] == []
    assert verification.tally.objects == len(contents(lab))
    assert verification.tally.undigested == 0
    assert not any(slide.damaged for slide in Overview(lab.store).slides())


CASES = [
    (what, how)
    for number, what in enumerate(OBJECTS)
    for how in ("missing", DAMAGE[1 + number % (len(DAMAGE) - 1)])
]
"""More damage to what is made again: tests/unit/pipeline/test_damaged_objects.py and test_pointers.py."""


@pytest.mark.parametrize(("what", "how"), CASES)
def test_damage_to_any_object_is_found_shown_and_repaired(lab, what, how):
    key = one_of(lab, *OBJECTS[what])
    before = contents(lab)
    damage(before[key], how, lab.store.inner, key)
    unseen = how == "missing" and what in UNSEEN_WHERE_MISSING

    assert {slide.slide_id for slide in Overview(lab.store).slides()} >= set(SLIDES)
    assert set(found(lab)) == (set() if unseen else {key})
    slides = Overview(lab.store).slides()
    assert {slide.slide_id for slide in slides} == set(SLIDES)
    shown = [one for slide in slides for one in slide.damaged]
    assert unseen or what == "an event among those of its bytes" or any(key in one for one in shown)
    if what.startswith(("the", "draft", "a picture", "scanned")) and key.split("/")[1].startswith("a"):
        assert key in {one.key for one in check_slide(lab.store, "a")}

    publisher = MemoryBus()
    repaired = list(Repair(lab.store, publisher).run())
    deeds = [json.loads(data) for data in lab.store.contents("audit/").values()]
    assert {deed["action"] for deed in deeds} == (set() if unseen else {"repaired"})
    assert {deed["what"]["slide_id"] for deed in deeds} <= set(SLIDES)
    assert unseen or [one.done for one in repaired] in (["restored"], ["announced"])
    whole_store.remake(lab, [event for event in publisher.published if event.key != "d"])
    after = contents(lab)
    for gone in [one for one in UNSEEN_WHERE_MISSING if what == one]:
        before.pop(key), after.pop(key, None)
        assert gone == "the note of a copy" or unseen or [one.key for one in publisher.published] == ["d"]

    assert after == before
    assert found(lab) == {}
    assert list(noted_damage(lab.store)) == []
    assert not any(slide.damaged for slide in Overview(lab.store).slides())


def test_a_slide_published_by_hand_is_listed_before_it_was_read(lab):
    path = tiny_model.write_slide(lab.folder / "new.tif", side_px=640)
    event = Event.first(scanned(path), source="lab/scanner-1", now=NOW, identity="18")
    take_in(lab.store, event)
    assert found(lab) == {}
    lab.store.delete(scanned_key("new"))

    assert found(lab) == {scanned_key("new"): "is missing"}
    (state,) = Overview(lab.store).slides(["new"])
    assert (state.event, state.state) == (event, "scanned")
    assert state in Overview(lab.store).slides()
    assert [one.done for one in Repair(lab.store, MemoryBus()).run()] == ["restored"]
    assert found(lab) == {}


def test_a_repair_never_writes_a_sound_object(lab):
    key = one_of(lab, "reports/a/", "draft.html")
    damage(lab.store.get(key), "bit", lab.store.inner, key)
    found(lab)
    lab.store.written.clear(), lab.store.replaced.clear()
    publisher = MemoryBus()
    list(Repair(lab.store, publisher).run())
    whole_store.remake(lab, publisher.published)

    written = [*lab.store.written, *lab.store.replaced]
    assert [one for one in written if not one.startswith("audit/")] == [key]


@pytest.mark.parametrize("stop", range(0, 14, 3))
def test_a_stopped_verification_goes_on_where_it_was(lab, stop):
    keys = [one_of(lab, *OBJECTS[what]) for what in ("the bag", "the owner", "draft.txt", "scanned.json")]
    for key in keys:
        damage(lab.store.get(key), "truncated", lab.store.inner, key)
    first = Verification(lab.store)
    steps = first.run()
    seen = [one.key for _ in range(stop) for one in next(steps)]
    steps.close()
    second = Verification(lab.store)
    assert second.resumed is (stop > 0 or lab.store.head(CURSOR) is not None)
    seen += [one.key for step in second.run() for one in step]

    assert sorted(seen) == sorted(keys)
    assert sum(second.tally.damaged.values()) == len(keys)
    assert second.tally.objects == len(contents(lab))
    assert {one.key for one in noted_damage(lab.store)} == set(keys)
    assert lab.store.head(CURSOR) is None


def test_a_store_of_an_earlier_version_is_checked_as_far_as_possible(lab):
    as_before(lab)
    verification = Verification(lab.store)
    assert [one for step in verification.run() for one in step] == []
    assert verification.tally.undigested > 10
    assert not any(slide.damaged for slide in Overview(lab.store).slides())
    keys = [
        one_of(lab, *OBJECTS[what]) for what in ("draft.json", "the owner", "scanned.json", "the pointer")
    ]
    for key in [*keys, one_of(lab, "reports/C/", "draft.json")]:
        damage(lab.store.get(key), "truncated", lab.store.inner, key)

    assert set(found(lab)) == {*keys, one_of(lab, "reports/C/", "draft.json")}
    publisher = MemoryBus()
    assert all(one.done for one in Repair(lab.store, publisher).run())
    whole_store.remake(lab, publisher.published)
    assert found(lab) == {}
    assert not lab.store.contents("case-reports/C/0")  # it is rebuilt where it lies


def as_before(lab: JobLab) -> None:
    """Leave the store as the version before would have: no digests, no seals, cases among slides."""
    store = lab.store.inner
    for key, data in contents(lab).items():
        of_h = key.startswith(("gateway/by-hand/", "slides/h/", "gateway/owners/h"))
        of_h |= key.startswith("gateway/contents/") and b'"slide_id":"h"' in data
        if key.endswith("digests.json") or of_h:
            store.delete(key)
        elif b'"seal":"' in data or key.startswith("case-reports/"):
            store.delete(key)
            old = data.replace(b"case-reports/C/", b"reports/C/")
            if b'"seal":"' in data:
                value = json.loads(old)
                dropped = {"seal", *(("case_id", "turns") if "latest" in key else ())}
                old = json.dumps({name: value[name] for name in value if name not in dropped}).encode()
            store.put(key.replace("case-reports/C/", "reports/C/"), old)


def test_a_store_in_a_bucket_is_verified_and_shown_like_one_in_a_folder(lab, s3_server, s3_bucket):
    bucket = open_store(s3_server.settings(s3_bucket))
    for key, data in contents(lab).items():
        bucket.put(key, data)
    keys = [one_of(lab, *OBJECTS[what]) for what in ("the bag", "draft.html", "the pointer", "scanned.json")]
    for key in keys:
        damage(lab.store.get(key), "truncated", bucket, key)
    damaged = [one.key for step in Verification(bucket).run() for one in step]

    assert sorted(damaged) == sorted(keys)
    slides = Overview(bucket).slides()
    assert {slide.slide_id: slide.state for slide in slides} == SLIDES
    assert sum(len(slide.damaged) for slide in slides) == len(keys)


class Meanwhile:
    """A store to which others write objects as soon as one of them is read in a certain way."""

    def __init__(self, inner: WatchedStore, asks: str, objects: dict[str, bytes]) -> None:
        self._inner, self._asks, self._objects = inner, asks, objects

    def __getattr__(self, name: str):
        ask = getattr(self._inner, name)
        return partial(self._first, ask) if name == self._asks else ask

    def _first(self, ask, key: str):
        answer = ask(key)
        answer = iter(list(answer)) if isinstance(answer, Iterator) else answer
        if any(one.startswith(key) for one in self._objects):
            for one, data in self._objects.items():
                self._inner.put(one, data, if_absent=False)
        return answer


def taken_away(lab: JobLab, prefix: str) -> dict[str, bytes]:
    objects = lab.store.contents(prefix)
    for key in objects:
        lab.store.delete(key)
    return objects


def test_an_object_written_during_its_check_is_not_called_missing(lab):
    """A report has no pointer when it is checked, but has one when the damage is reported."""
    objects = taken_away(lab, "reports/a/latest")

    late = Verification(Meanwhile(lab.store, "list", objects))
    assert [one for step in late.run() for one in step] == []
    assert list(noted_damage(lab.store)) == []
    assert found(lab) == {}


def test_an_object_written_during_its_check_is_not_called_damaged(lab):
    key = one_of(lab, *OBJECTS["draft.txt"])
    data = lab.store.get(key)
    damage(data, "bit", lab.store.inner, key)

    late = Verification(Meanwhile(lab.store, "chunks", {key: data}))
    assert [one for step in late.run() for one in step] == []
    assert list(noted_damage(lab.store)) == []
    assert found(lab) == {}


def test_a_pointer_written_during_a_look_at_its_slide_is_not_called_missing(lab):
    objects = taken_away(lab, "reports/a/latest.json")

    (state,) = Overview(Meanwhile(lab.store, "head", objects)).slides(["a"])
    assert (state.state, state.damaged) == ("drafted", ())

"""No report is ever shown under a name that it does not say itself that it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
from folding_store import FoldingStore
from job_kit import JobLab, drafts_of, event_of, scanned

from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.pointers import set_latest
from histgen_lib.catalogue.states import SlideState
from histgen_lib.catalogue.verification import Verification
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import from_json


@pytest.fixture
def lab(tmp_path, model_dir) -> JobLab:
    return JobLab.at(tmp_path, model_dir)


def slide(lab: JobLab, name: str, seed: int = 0) -> Path:
    return tiny_model.write_slide(lab.folder / f"{name}.tif", side_px=512, seed=seed)


def by_hand(path: Path, **fields) -> Event:
    """Tell of a slide as somebody's own producer does."""
    return replace(event_of(scanned(path, **fields)), source="lab/scanner-1")


def ready(lab: JobLab, path: Path, **fields) -> BagReady:
    """Have the tiler make a bag of a slide; return what it says."""
    return lab.tiler.handle(by_hand(path, **fields), lambda *_: None).events[0].data


def states(lab: JobLab) -> dict[str, SlideState]:
    return {state.slide_id: state for state in Overview(lab.store).slides()}


def latest(lab: JobLab, prefix: str) -> DraftReport:
    return from_json(lab.store.get(json.loads(lab.store.get(f"{prefix}/latest.json"))["draft"]))


def code_of(lab: JobLab, data: BagReady) -> str:
    with pytest.raises(InvalidInputError) as caught:
        lab.draft(data)
    return caught.value.code


def test_a_slide_and_a_case_of_one_id_have_a_report_each(lab):
    alpha, beta = event_of(scanned(slide(lab, "alpha"))), slide(lab, "beta", 1)
    (first,) = drafts_of(lab, [alpha])
    (second,) = drafts_of(lab, [event_of(scanned(beta, case_id="alpha", case_slides=("beta",)))])

    assert (latest(lab, "reports/alpha").case_id, latest(lab, "reports/alpha").slide_id) == (None, "alpha")
    assert [part.slide_id for part in latest(lab, "case-reports/alpha").slides] == ["beta"]
    assert {name: state.draft.key for name, state in states(lab).items()} == {
        "alpha": first.data.draft_key,
        "beta": second.data.draft_key,
    }
    assert first.key != second.key  # nor does a topic that is compacted keep but one of them


def test_a_case_that_has_the_id_of_its_own_slide_is_not_that_slide(lab):
    path = slide(lab, "alpha")
    (alone,) = drafts_of(lab, [event_of(scanned(path))])
    (together,) = drafts_of(lab, [event_of(scanned(path, case_id="alpha", case_slides=("alpha",), turn=1))])

    assert latest(lab, "reports/alpha").case_id is None
    assert alone.data.draft_key != together.data.draft_key


def test_an_older_scan_that_is_finished_later_is_not_the_latest(lab):
    path = slide(lab, "alpha")
    older = ready(lab, path)
    tiny_model.write_slide(path, side_px=512, seed=5)
    newer = ready(lab, path)
    lab.draft(newer)
    slide(lab, "alpha")
    lab.draft(older)

    assert (older.turn, newer.turn) == (0, 1)
    assert latest(lab, "reports/alpha").provenance.slide.content_id == newer.content_id


@pytest.mark.parametrize("part", ["bag_key", "scan_key", "bag_digest", "content_id"])
@pytest.mark.parametrize("case", [{}, {"case_id": "C", "case_slides": ("alpha",)}])
def test_an_event_that_names_another_slides_bag_is_refused_and_leaves_nothing(lab, part, case):
    """Of the same size, too: nothing but the names tells them apart."""
    alpha, beta = ready(lab, slide(lab, "alpha", 1), **case), ready(lab, slide(lab, "beta", 2), **case)
    mixed = replace(alpha, **{part: getattr(beta, part)})

    assert code_of(lab, mixed) == "bag-other-slide"
    assert not list(lab.store.list("reports/")) + list(lab.store.list("case-reports/"))
    assert not list(lab.store.list("cases/"))


def test_another_slides_bag_and_record_under_a_slides_keys_are_refused(lab):
    alpha, beta = ready(lab, slide(lab, "alpha", 1)), ready(lab, slide(lab, "beta", 2))
    for mine, theirs in ((alpha.bag_key, beta.bag_key), (alpha.scan_key, beta.scan_key)):
        lab.store.put(mine, lab.store.get(theirs), if_absent=False)

    assert code_of(lab, alpha) == "bag-other-slide"


def test_what_a_case_keeps_of_one_slide_is_never_taken_for_another(lab):
    case = {"case_id": "C", "case_slides": ("alpha", "beta")}
    alpha, beta = ready(lab, slide(lab, "alpha", 1), **case), ready(lab, slide(lab, "beta", 2), **case)
    lab.draft(alpha)
    lab.store.put("cases/C/beta.json", lab.store.get("cases/C/alpha.json"))
    lab.store.put("cases/C/beta.history/000001.json", lab.store.get("cases/C/alpha.history/000001.json"))

    assert code_of(lab, beta) == "names-not-told-apart"


def test_a_slide_that_went_to_another_case_is_in_no_new_report_of_the_old_one(lab):
    both = ("alpha", "beta")
    alpha, beta = slide(lab, "alpha", 1), slide(lab, "beta", 2)
    old = [ready(lab, path, case_id="C1", case_slides=both) for path in (alpha, beta)]
    for data in old:
        lab.draft(data)
    lab.draft(ready(lab, alpha, case_id="C2", case_slides=("alpha",)))
    tiny_model.write_slide(beta, side_px=512, seed=7)
    rescanned = ready(lab, beta, case_id="C1", case_slides=both)

    assert code_of(lab, rescanned) == "case-slide-elsewhere"
    assert lab.draft(old[1]).data is None  # it has ended before, and does not end again in a letter
    assert [part.slide_id for part in latest(lab, "case-reports/C2").slides] == ["alpha"]


@pytest.mark.parametrize("case_id", ["C", "C."])
def test_an_event_about_a_bag_puts_no_slide_into_a_case_that_its_scan_did_not_name(lab, case_id):
    alone = ready(lab, slide(lab, "alpha", 1))
    code = code_of(lab, replace(alone, case_id=case_id, case_slides=("alpha",)))

    assert code == ("case-slide-elsewhere" if case_id == "C" else "slide-id-invalid")
    assert not list(lab.store.list("cases/"))


def test_a_slide_joins_no_case_that_its_own_scan_did_not_name(lab):
    ready(lab, slide(lab, "alpha", 1))
    done = lab.draft(ready(lab, slide(lab, "beta", 2), case_id="C", case_slides=("alpha", "beta")))

    assert done.data is None
    assert states(lab)["beta"].lacks == ("alpha",)


def test_a_case_that_has_other_slides_now_leaves_the_others_their_report(lab):
    paths = {name: slide(lab, name, seed) for seed, name in enumerate(("a", "b", "c"))}

    def events(*names: str) -> list[Event]:
        return [by_hand(paths[name], case_id="C", case_slides=names) for name in names]

    (first,) = drafts_of(lab, events("a", "b"))
    (second,) = drafts_of(lab, events("a", "c"))

    assert [part.slide_id for part in latest(lab, "case-reports/C").slides] == ["a", "c"]
    assert {name: state.draft.key for name, state in states(lab).items()} == {
        "a": second.data.draft_key,
        "b": first.data.draft_key,
        "c": second.data.draft_key,
    }


def as_before(lab: JobLab, case_id: str, into: str) -> None:
    """Put a case's reports where the version before kept them, at the end of what is there."""
    store, room, old = lab.store.inner, f"case-reports/{case_id}/", f"reports/{into}/"
    entries = len(list(store.list(f"{old}latest.history/")))
    for info in list(store.list(room)):
        key, data = info.key.replace(room, old), store.get(info.key)
        if "latest" in key:
            entry = json.loads(data.replace(room.encode(), old.encode()))
            data = json.dumps(
                {name: entry[name] for name in entry if name not in ("case_id", "turns", "seal")}
            ).encode()
        if "history" in key:
            entries += 1
            key = f"{old}latest.history/{entries:06}.json"
        store.put(key, data, if_absent=False)
        store.delete(info.key)


def test_reports_of_a_case_that_the_version_before_has_left_are_found_and_go_on(lab):
    path = slide(lab, "beta", 1)
    first = ready(lab, path, case_id="alpha", case_slides=("beta",))
    drafts_of(lab, [event_of(scanned(slide(lab, "alpha")))])
    lab.draft(first)
    as_before(lab, "alpha", "alpha")
    alone = states(lab)["alpha"].draft

    found = lab.without_slides().draft(first).data
    assert found.draft_key.startswith("reports/alpha/")
    tiny_model.write_slide(path, side_px=512, seed=5)
    second = lab.draft(ready(lab, path, case_id="alpha", case_slides=("beta",))).data
    assert lab.without_slides().draft(first).data == second  # which has come to be of the case since
    pointer = json.loads(lab.store.get("case-reports/alpha/latest.json"))
    assert [pointer["report_digest"], *pointer["previous"]] == [second.report_digest, found.report_digest]
    assert states(lab)["beta"].draft.key == second.draft_key
    assert states(lab)["alpha"].draft == alone


def test_a_slide_whose_pointer_a_case_had_taken_gets_it_back_with_its_next_report(lab):
    alpha = by_hand(slide(lab, "alpha"))
    (alone,) = drafts_of(lab, [alpha])
    lab.draft(ready(lab, slide(lab, "beta", 1), case_id="alpha", case_slides=("beta",), turn=7))
    as_before(lab, "alpha", "alpha")
    assert latest(lab, "reports/alpha").case_id == "alpha"
    drafts_of(lab, [alpha])
    assert json.loads(lab.store.get("reports/alpha/latest.json"))["report_digest"] == alone.data.report_digest
    tiny_model.write_slide(lab.folder / "alpha.tif", side_px=512, seed=5)
    before = states(lab)["beta"].draft
    (rescan,) = drafts_of(lab, [by_hand(lab.folder / "alpha.tif")])
    assert states(lab)["beta"].draft == before  # the case is not forgotten for that
    assert before is not None
    assert json.loads(lab.store.get("reports/alpha/latest.json"))["draft"] == rescan.data.draft_key


def faults(lab: JobLab) -> dict[str, str]:
    return {one.key: one.owner for step in Verification(lab.store, anew=True).run() for one in step}


def test_such_a_store_is_verified_without_false_alarms_and_damage_names_its_owner(lab):
    alpha = by_hand(slide(lab, "alpha"))
    (alone,) = drafts_of(lab, [alpha])
    event = by_hand(slide(lab, "beta", 1), case_id="alpha", case_slides=("beta",), turn=7)
    (together,) = drafts_of(lab, [event])
    as_before(lab, "alpha", "alpha")
    pointer = json.loads(lab.store.get("reports/alpha/latest.json"))
    pointer["previous"] = [alone.data.report_digest]  # which was the latest before
    lab.store.inner.put("reports/alpha/latest.json", json.dumps(pointer).encode(), if_absent=False)
    assert faults(lab) == {}
    key = together.data.draft_key.replace("case-reports", "reports")
    before = lab.store.get(key)
    lab.store.inner.put(key, b"{", if_absent=False)
    page = alone.data.draft_key.replace(".json", ".html")
    lab.store.inner.delete(page)
    assert set(faults(lab)) == {key, page}
    assert faults(lab)[page] == "alpha"
    assert states(lab)["alpha"].draft.key == alone.data.draft_key
    lab.store.inner.put(key, before[:-9], if_absent=False)
    drafts_of(lab, [alpha, event])
    assert lab.store.get(key) == before  # it is made again where it lies
    assert faults(lab) == {}
    tiny_model.write_slide(lab.folder / "alpha.tif", side_px=512, seed=5)
    drafts_of(lab, [by_hand(lab.folder / "alpha.tif")])

    assert faults(lab) == {}
    assert {name: state.state for name, state in states(lab).items()} == {
        "alpha": "drafted",
        "beta": "drafted",
    }


@pytest.mark.parametrize("name", ["Alpha", "alpha."])
def test_a_store_that_takes_two_names_for_one_is_not_written_to_under_the_second(lab, name):
    store = FoldingStore(lab.store)
    set_latest(store, ReportOwner("alpha"), "1" * 64, "k", {"alpha": 0})
    with pytest.raises(InvalidInputError) as caught:
        set_latest(store, ReportOwner(name), "2" * 64, "k", {name: 0})

    assert caught.value.code == "names-not-told-apart"
    assert json.loads(store.get("reports/alpha/latest.json"))["slide_id"] == "alpha"

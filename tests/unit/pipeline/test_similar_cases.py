"""Looking for the nearest signed cases: what may be cited, and that no draft waits for an index."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from case_entries import MODEL, entry
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.catalogue.keys import ReportOwner, case_slide_key, scanned_key
from histgen_lib.catalogue.registry import Announcement
from histgen_lib.errors import FatalError, TransientError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.pipeline.draft.kin import Kin, owner_of
from histgen_lib.pipeline.draft.similar import PAIRS, NearestCases
from histgen_lib.pipeline.draft.support import Seen
from histgen_lib.retrieval import CaseEntry, Vectors
from histgen_lib.storage import ObjectStore
from histgen_lib.testing import MemoryStore
from histgen_lib.testing.cases import MemoryCaseIndex

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OURS = "ours"


def seen(slide_id: str = OURS, seed: int = 1, regions: int = 3) -> Seen:
    one = entry(slide_id, seed, regions=regions)
    return Seen(slide_id, one.vectors)


def signed(slide_id: str, seed: int = 2, **more) -> CaseEntry:
    return entry(slide_id, seed, **({"signed": True} | more))


def index_of(*entries: CaseEntry) -> MemoryCaseIndex:
    index = MemoryCaseIndex()
    index.put(entries)
    return index


def announce(store: ObjectStore, slide_id: str, content_id: str, case_id: str | None = None) -> None:
    data = SlideScanned(slide_id, "file:///s", content_id, 1, case_id=case_id)
    event = Event.first(data, source="/histgen/test", now=NOW, identity=slide_id)
    store.put(scanned_key(slide_id), Announcement(event, data).to_bytes())


def nearest(index: MemoryCaseIndex, store: ObjectStore | None = None, kin: Kin | None = None, **settings):
    looking = NearestCases(lambda: index, store, **settings)
    return looking.nearest([seen()], MODEL, kin or Kin(frozenset({OURS})))


# -- what is found


def test_the_nearest_come_first_with_their_reports_and_their_regions():
    """Near is what has a slide's vector near to this one's; regions that are alike do not make it so."""
    near = signed("near", near=seen().vectors.slide, diagnosis="Fibroadenoma", organ="Breast")
    far = signed("far", 5)
    far = replace(far, vectors=replace(far.vectors, regions=seen().vectors.regions))
    answer = nearest(index_of(far, near), count=2)
    first, second = answer.cases

    assert (answer.answer, answer.model, answer.index_version) == ("answered", MODEL, 1)
    assert (first.slide_id, second.slide_id) == ("near", "far")
    assert (first.organ, first.diagnosis, first.text) == ("Breast", "Fibroadenoma", "Report of near.")
    assert first.score > second.score
    assert len(first.pairs) == PAIRS
    assert first.pairs[0].similarity >= first.pairs[1].similarity


def test_no_region_is_shown_twice_for_a_case():
    answer = nearest(index_of(signed("a", regions=25)), count=1)
    here = [pair.here for pair in answer.cases[0].pairs]
    there = [pair.there for pair in answer.cases[0].pairs]

    assert len(set(here)) == len(here)
    assert len(set(there)) == len(there)


def test_a_pair_names_the_slide_of_a_case_that_it_lies_on():
    one, other = seen("one", 1), seen("two", 2)
    like_other = signed("x", near=other.vectors.regions[1])
    found = NearestCases(lambda: index_of(like_other), count=1)
    answer = found.nearest([one, other], MODEL, Kin(frozenset({"one", "two"}), case_id="C"))
    best = answer.cases[0].pairs[0]

    assert best.here_slide_id == "two"
    assert best.here == other.regions()[1]


def test_a_long_report_is_cut():
    (case,) = nearest(index_of(signed("a", text="x" * 5000))).cases

    assert len(case.text) == 1500
    assert case.text.endswith("…")


# -- what is never found

ENTRIES = st.builds(
    lambda number, seed, owner, is_signed, is_synthetic, model: entry(
        f"slide-{number}", seed, owner=owner or f"slide-{number}", signed=is_signed, synthetic=is_synthetic,
        model=model,
    ),
    number=st.integers(0, 12),
    seed=st.integers(0, 50),
    owner=st.sampled_from(["", "", "case/ours", "case/other", "case/third"]),
    is_signed=st.booleans(),
    is_synthetic=st.booleans(),
    model=st.sampled_from([MODEL, MODEL, MODEL, "n" * 64]),
)  # fmt: skip


@given(
    entries=st.lists(ENTRIES, max_size=14, unique_by=lambda one: one.slide_id),
    slides=st.sets(st.integers(0, 12), min_size=1, max_size=3),
    announced=st.dictionaries(
        st.integers(0, 12), st.tuples(st.integers(0, 4), st.sampled_from([None, "ours", "other"]))
    ),
    withdrawn=st.sets(st.sampled_from(["slide-3", "slide-5", "case/other"])),
    count=st.integers(0, 5),
)
def test_never_its_own_never_synthetic_never_unsigned(entries, slides, announced, withdrawn, count):
    """And all others, up to as many as are asked for."""
    store, case_id = MemoryStore(), "ours"
    scans = {f"slide-{n}": announced.get(n, (100 + n, None)) for n in range(13)}
    for slide_id, (content, label) in scans.items():
        announce(store, slide_id, f"{content:064x}", label)
    for one in entries:
        if one.owner.startswith("case/"):
            store.put(case_slide_key(one.owner.removeprefix("case/"), one.slide_id), b"{}")
    for owner in withdrawn:
        store.put(f"withdrawn/{owner}.json", b"{}")
    own = {f"slide-{number}" for number in slides}
    contents = {scans[slide_id][0] for slide_id in own}
    kin = Kin(frozenset(own), frozenset(f"{content:064x}" for content in contents), case_id)
    answer = nearest(index_of(*entries), store, kin, count=count)

    def is_kin(slide_id: str) -> bool:
        content, label = scans[slide_id]
        return slide_id in own or content in contents or label == case_id

    def may(one: CaseEntry) -> bool:
        slides_of_owner = {other.slide_id for other in entries if other.owner == one.owner}
        fits = one.signed and not one.synthetic and one.model == MODEL
        forbidden = {"case/ours"} | withdrawn
        return fits and not {one.owner, one.slide_id} & forbidden and not any(map(is_kin, slides_of_owner))

    cited = [owner_of(case).name for case in answer.cases]
    allowed = {one.owner for one in entries if may(one)}
    hidden = {one.owner for one in entries if one.slide_id in withdrawn}  # perhaps: by its best slide
    assert set(cited) <= allowed
    assert not {case.slide_id for case in answer.cases} & withdrawn
    assert min(count, len(allowed - hidden)) <= len(set(cited)) == len(cited) <= count


def test_a_hundred_slides_of_its_own_patient_do_not_hide_the_others():
    store = MemoryStore()
    siblings = [signed(f"s{i}", near=seen().vectors.regions[0]) for i in range(100)]
    for one in siblings:
        announce(store, one.slide_id, "ab" * 32, case_id="C")
    index = index_of(*siblings, signed("other", 7))

    answer = nearest(index, store, Kin(frozenset({OURS}), case_id="C"))
    assert [case.slide_id for case in answer.cases] == ["other"]


def test_without_a_store_only_ids_tell_what_is_its_own():
    assert Kin(frozenset({"a"}), case_id="C").has("case/C", "b")
    assert Kin(frozenset({"a"})).has("case/D", "a")
    assert not Kin(frozenset({"a"})).has("b", "b")
    assert owner_of(nearest(index_of(signed("b", owner="case/D"))).cases[0]) == ReportOwner("D", is_case=True)


# -- an index that is away, slow, or of another network


@pytest.mark.parametrize(
    "error",
    [
        TransientError("case-index-unavailable", "Away."),
        FatalError("case-index-unusable", "Broken."),
        ValueError("a fault"),
    ],
)
def test_an_index_that_fails_leaves_a_draft_without_cases(error):
    index = index_of(signed("a"))
    index.error = error
    answer = nearest(index)

    assert (answer.answer, answer.cases, answer.index_version) == ("away", (), None)


def test_an_index_that_cannot_be_opened_is_tried_again_for_the_next_draft():
    outcomes = [TransientError("case-index-unavailable", "Away."), index_of(signed("a"))]

    def opened() -> MemoryCaseIndex:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    looking = NearestCases(opened)
    answers = [looking.nearest([seen()], MODEL, Kin(frozenset({OURS}))).answer for _ in range(3)]
    assert answers == ["away", "answered", "answered"]


class _Stuck(MemoryCaseIndex):
    """Does not answer before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.asked = 0

    def search(self, query):
        self.asked += 1
        self.let_go.wait()
        return super().search(query)


def test_an_index_that_hangs_holds_up_no_draft_and_costs_no_more_than_a_few_threads():
    index = _Stuck()
    index.put([signed("a")])
    looking = NearestCases(lambda: index, limit_s=0.05)
    before = threading.active_count()
    answers = [looking.nearest([seen()], MODEL, Kin(frozenset({OURS}))).answer for _ in range(8)]
    during = threading.active_count()
    index.let_go.set()

    assert answers == ["slow"] * 8
    assert index.asked == 1, "no second question while the first is not answered"
    assert during - before <= 3
    patient = replace(looking, limit_s=30.0)
    assert patient.nearest([seen()], MODEL, Kin(frozenset({OURS}))).answer == "answered"


def test_an_index_of_another_network_is_not_asked():
    assert nearest(index_of(signed("a", model="n" * 64))).answer == "other-model"
    assert nearest(index_of()).answer == "answered"


def test_none_are_looked_for_if_none_are_wanted():
    index = index_of(signed("a"))
    index.error = AssertionError("asked")

    assert nearest(index, count=0).answer == "off"


def test_regions_of_no_area_can_be_recorded():
    one = seen(regions=1).vectors
    vectors = Vectors(one.slide, one.regions, np.zeros((1, 4), np.int32))

    assert Seen("a", vectors).regions()[0].width == 1

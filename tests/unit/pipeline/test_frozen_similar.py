"""The similar cases of a report: chosen once, shown alike by all that write it, kept whatever is lost."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from damage import damage
from job_kit import Killed, WatchedStore
from similar_lab import SimilarLab, draft_in, page_in
from tiny_retrieval import tiny_retrieval_model

from histgen_lib.catalogue.cited import drafts_citing
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.pruning import prune
from histgen_lib.catalogue.verification import Tally, walk
from histgen_lib.errors import TransientError
from histgen_lib.retrieval import CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings
from histgen_lib.testing.cases import MemoryCaseIndex


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> SimilarLab:
    return SimilarLab.scanned(tmp_path_factory.mktemp("scanned"), tiny_retrieval_model())


@pytest.fixture
def lab(original, tmp_path) -> SimilarLab:
    return original.copy(tmp_path / "lab")


def contents(lab: SimilarLab) -> dict[str, bytes]:
    """Return what the store holds of reports and citations."""
    return {k: v for k, v in lab.lab.store.contents().items() if k.startswith(("reports/", "cited/"))}


def named(lab: SimilarLab, name: str) -> str:
    (key,) = [key for key in contents(lab) if key.endswith(f"/{name}")]
    return key


def is_sound(lab: SimilarLab) -> bool:
    """Whether a verification of the store finds nothing."""
    return not any(found for _, found in walk(lab.lab.store, Tally()))


def cited(lab: SimilarLab) -> list[str]:
    similar = draft_in(lab.lab.store).similar
    return [case.slide_id for case in similar.cases]


def forget(lab: SimilarLab, *names: str) -> None:
    """Remove files of the report, and all that says that it was finished."""
    for key in contents(lab):
        if key.endswith(names) or "latest" in key:
            lab.lab.store.delete(key)


# -- what a report holds


@pytest.mark.parametrize("kind", ["memory", "lance"])
def test_a_report_shows_the_nearest_signed_cases_of_the_index(lab, tmp_path, kind):
    index = None
    if kind == "lance":
        index = open_case_index(CaseIndexSettings(StorageSettings(f"file:{tmp_path / 'index'}")))
    entries = [lab.signed("a", 1), lab.signed("b", 2), lab.signed("no", 3, signed=False)]
    done = lab.beside(*entries, index=index).draft(lab.ready)
    draft = draft_in(lab.lab.store)

    assert sorted(cited(lab)) == ["a", "b"]
    assert json.loads(lab.lab.store.get(named(lab, "similar.json"))) == draft.similar.model_dump(mode="json")
    assert "Report of a." in page_in(lab.lab.store)
    assert done.measures["histgen_similar_unanswered_total"] == 0
    assert is_sound(lab)


def test_similar_json_is_written_before_anything_else_of_the_report_and_the_notes_next(lab):
    lab.beside(lab.signed("a"), lab.signed("b", 6)).draft(lab.ready)
    written = lab.lab.store.written

    assert written[0] == named(lab, "similar.json")
    assert {key.split("/")[0] for key in written[1:3]} == {"cited"}


def test_a_report_without_an_index_says_that_none_was_asked(lab):
    lab.lab.draft(lab.ready)

    assert draft_in(lab.lab.store).similar.answer == "off"
    assert "imilar signed cases" not in page_in(lab.lab.store)


def test_a_model_without_the_network_writes_what_it_always_wrote(tmp_path, model_dir):
    plain = SimilarLab.scanned(tmp_path, model_dir)
    plain.beside(plain.signed("a", model="m" * 64)).draft(plain.ready)
    names = {key.rpartition("/")[2] for key in contents(plain) if key.count("/") > 2}

    assert "similar.json" not in names
    assert draft_in(plain.lab.store).similar is None
    assert draft_in(plain.lab.store).sentences[0].support is None


def test_the_network_counts_among_the_inputs_and_its_absence_does_not(original, model_dir):
    from histgen_lib.files import json_digest
    from histgen_lib.pipeline import load_model
    from histgen_lib.pipeline.provenance import SOFTWARE, Recipe

    def inputs(recipe: Recipe, **more: str) -> str:
        made = {"software": SOFTWARE, "schema": "1", "model": recipe.model.provenance.sha256}
        return json_digest({**made, "decoding": recipe._decoding, "origin": {"bag": "x"}, **more})

    plain, whole = Recipe(load_model(model_dir)), Recipe(original.lab.model)
    assert plain.inputs_digest({"bag": "x"}) == inputs(plain)
    assert whole.inputs_digest({"bag": "x"}) == inputs(whole, retrieval=original.network)


def test_the_networks_are_named_with_what_decides_their_vectors(lab):
    named = {one.network: one.digest for one in lab.lab.draft_job.models()}

    assert named["fgcr_image"] == named["fgcr_text"] == lab.network[:12] != named["histgen"]


# -- the same bytes, whatever the index holds by then


@pytest.mark.parametrize("writes", range(11))
def test_a_report_begun_by_one_and_finished_by_another_has_the_first_ones_cases(lab, tmp_path, writes):
    """The first is killed after so many writes; the other's index holds other cases."""
    undisturbed = lab.copy(tmp_path / "undisturbed")
    undisturbed.beside(lab.signed("first"), lab.signed("second", 6)).draft(lab.ready)
    begun = lab.beside(lab.signed("first"), lab.signed("second", 6))
    begun.store.dies_after = writes
    with pytest.raises(Killed):
        begun.draft(lab.ready)
    begun.store.dies_after = None
    later = lab.beside(lab.signed("third", 7))
    if later.find_draft(lab.ready) is None:
        later.draft(lab.ready)

    if writes:
        assert contents(lab) == contents(undisturbed)
    else:
        assert cited(lab) == ["third"]
    assert begun.store.replaced == []


def test_two_workers_at_once_show_the_same_cases(lab):
    """Both have asked, each another index, before either has written anything."""
    both_asked = threading.Barrier(2, timeout=60)

    class Meeting(MemoryCaseIndex):
        def search(self, query):
            found = super().search(query)
            both_asked.wait()
            return found

    labs = []
    for name in ("one", "other"):
        index = Meeting()
        index.put([lab.signed(name, len(name))])
        labs.append(lab.over(lambda index=index: index, limit_s=60.0))
    with ThreadPoolExecutor(2) as workers:
        one, other = workers.map(lambda each: each.draft(lab.ready).data, labs)
    (shown,) = cited(lab)

    assert one == other
    assert f"Report of {shown}." in page_in(lab.lab.store)
    assert json.loads(lab.lab.store.get(named(lab, "similar.json")))["cases"][0]["slide_id"] == shown
    assert is_sound(lab)


def test_an_index_that_is_away_is_no_reason_to_wait_and_stays_away_for_this_report(lab):
    index = MemoryCaseIndex()
    index.error = TransientError("case-index-unavailable", "Away.")
    done = lab.over(lambda: index).draft(lab.ready)
    before = contents(lab)
    forget(lab, "draft.json", "draft.html", "digests.json")
    lab.beside(lab.signed("a")).draft(lab.ready)

    assert done.measures["histgen_similar_unanswered_total"] == 1
    assert "the case index was not available" in page_in(lab.lab.store)
    assert {k: v for k, v in contents(lab).items() if "latest" not in k} == {
        k: v for k, v in before.items() if "latest" not in k
    }


# -- damage


@pytest.mark.parametrize("how", ["missing", "truncated", "bit"])
@pytest.mark.parametrize("name", ["similar.json", "draft.json", "draft.html", "draft.txt"])
def test_whatever_is_damaged_lies_there_again_with_the_same_cases(lab, name, how):
    lab.beside(lab.signed("a")).draft(lab.ready)
    before = contents(lab)
    key = named(lab, name)
    damage(before[key], how, lab.lab.store.inner, key)
    later = lab.beside(lab.signed("b", 6))

    assert later.find_draft(lab.ready) is None
    later.draft(lab.ready)
    assert contents(lab) == before


def test_if_both_copies_are_lost_the_report_is_made_anew_from_one_answer(lab):
    """Never a page with the cases of before beside a record with those of today."""
    lab.beside(lab.signed("a")).draft(lab.ready)
    for name in ("similar.json", "draft.json"):
        damage(b"x", "binary", lab.lab.store.inner, named(lab, name))
    lab.beside(lab.signed("b", 6)).draft(lab.ready)

    assert cited(lab) == ["b"]
    assert "Report of b." in page_in(lab.lab.store)
    assert "Report of a." not in page_in(lab.lab.store)
    assert is_sound(lab)


# -- cases that are withdrawn


def test_a_withdrawn_case_is_not_cited_though_the_index_still_has_it(lab):
    lab.lab.store.put("withdrawn/a.json", b"{}")
    lab.beside(lab.signed("a")).draft(lab.ready)

    assert cited(lab) == []


@pytest.mark.parametrize("owner", ["a", "case/C"])
def test_a_report_that_was_begun_before_a_case_or_its_slide_was_withdrawn_chooses_anew(lab, owner):
    lab.beside(lab.signed("a", owner=owner)).draft(lab.ready)
    forget(lab, "draft.json", "digests.json")
    lab.lab.store.put("withdrawn/a.json", b"{}")
    lab.beside(lab.signed("b", 6)).draft(lab.ready)

    assert cited(lab) == ["b"]
    assert "Report of a." not in page_in(lab.lab.store)


def test_a_case_that_is_withdrawn_while_its_note_is_written_is_not_cited(lab):
    """Who withdraws it has looked for notes before this one was there."""
    store = lab.lab.store

    class Withdrawing(WatchedStore):
        def put(self, key, data, **how):
            if key.startswith("cited/slide/a/"):
                store.inner.put("withdrawn/a.json", b"{}")
            return super().put(key, data, **how)

    late = replace(lab.beside(lab.signed("a"), lab.signed("b", 6)), store=Withdrawing(store.inner))
    late.draft(lab.ready)

    assert cited(lab) == ["b"]
    assert "Report of a." not in page_in(store)


def test_a_finished_report_keeps_its_bytes_when_a_case_is_withdrawn(lab):
    lab.beside(lab.signed("a")).draft(lab.ready)
    before = contents(lab)
    lab.lab.store.put("withdrawn/a.json", b"{}")
    lab.lab.store.delete(named(lab, "draft.txt"))
    lab.beside(lab.signed("b", 6)).draft(lab.ready)

    assert contents(lab) == before


def test_withdrawing_tells_which_drafts_show_the_case(lab):
    lab.beside(lab.signed("a"), lab.signed("x", 6, owner="case/C")).draft(lab.ready)
    digest = named(lab, "draft.json").split("/")[2]
    store, ours = lab.lab.store, [(ReportOwner("sound"), digest)]

    assert drafts_citing(store, ReportOwner("a")) == ours
    assert drafts_citing(store, ReportOwner("C", is_case=True)) == ours
    assert drafts_citing(store, ReportOwner("C")) == []
    forget(lab, "draft.json", "similar.json")
    assert drafts_citing(store, ReportOwner("a")) == []


def test_prune_removes_notes_of_reports_that_are_gone_and_no_others(lab):
    lab.beside(lab.signed("a")).draft(lab.ready)
    later = datetime.now(UTC) + timedelta(days=30)
    assert not any(
        one.key.startswith("cited/") for one in prune(lab.lab.store, None, {"reports": 1}, now=later)
    )
    forget(lab, "draft.json", "similar.json")
    gone = [one.key for one in prune(lab.lab.store, None, {"reports": 1}, now=later)]

    assert [key for key in gone if key.startswith("cited/slide/a/slide/sound/")]
    assert not list(lab.lab.store.list("cited/"))


# -- pictures


def test_the_page_shows_the_other_slides_region_from_its_stored_picture(lab):
    other = SimilarLab.scanned(lab.lab.folder, tiny_retrieval_model(), "other", seed=3)
    other.lab.draft(other.ready)
    report = draft_in(lab.lab.store, "other")
    digest = report.provenance.inputs_digest
    Path(other.ready.uri.removeprefix("file://")).unlink()
    lab.beside(lab.signed("other", report_digest=digest)).draft(lab.ready)
    case = draft_in(lab.lab.store).similar.cases[0]
    page = page_in(lab.lab.store)

    assert case.mpp == report.provenance.slide.mpp
    assert page.count('<figure class="side">') == 2 * len(case.pairs)
    assert "no picture" not in page


def test_a_cited_report_that_is_gone_leaves_words_in_place_of_its_picture(lab):
    lab.beside(lab.signed("gone")).draft(lab.ready)
    case = draft_in(lab.lab.store).similar.cases[0]

    assert case.mpp is None
    assert page_in(lab.lab.store).count("no picture</span>") == len(case.pairs)


def test_a_finished_report_is_found_whatever_index_is_set(lab):
    lab.beside().draft(lab.ready)

    assert draft_in(lab.lab.store).similar.answer == "answered"
    assert lab.lab.find_draft(lab.ready) is not None

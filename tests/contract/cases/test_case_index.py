"""What every case index promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from case_entries import MODEL, entry, like, units

from histgen_lib.retrieval import CaseEntry, CaseIndex, Filters, Query

MANY = 40


def assert_same(found: CaseEntry | None, put: CaseEntry) -> None:
    """Compare all that an entry holds; vectors are kept as float16."""
    assert found is not None
    arrays = (
        (found.vectors.slide, put.vectors.slide),
        (found.vectors.regions, put.vectors.regions),
        (found.words, put.words),
    )
    for ours, theirs in arrays:
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_array_equal(found.vectors.boxes, put.vectors.boxes)
    names = "slide_id owner report_digest text model signed synthetic organ diagnosis stain site date case_id"
    assert [getattr(found, name) for name in names.split()] == [getattr(put, name) for name in names.split()]


def ids(index: CaseIndex, query: Query) -> list[str]:
    return [hit.entry.slide_id for hit in index.search(query)]


def test_an_empty_index_finds_nothing(index: CaseIndex) -> None:
    assert index.find("a") is None
    assert index.search(like(entry("a"))) == []
    assert index.withdraw(["a"]) == 0
    index.compact()
    assert index.state().slides == 0


def test_what_is_put_is_found_by_all_who_open_the_index(
    index: CaseIndex, open_again: Callable[[], CaseIndex]
) -> None:
    put = entry(
        "a's \"slide\"", 1, organ="Skin", diagnosis="naevus", stain="H&E", site="left arm", date="2024-02-29",
        case_id="C", signed=True, synthetic=True, text="Zellen – ünïcode.\n'quoted'",
    )  # fmt: skip
    index.put([put])
    for opened in (index, open_again()):
        assert_same(opened.find(put.slide_id), put)
        (hit,) = opened.search(like(put))
        assert_same(hit.entry, put)


@pytest.mark.parametrize("against", ["regions", "slides", "texts"])
def test_the_best_come_first_with_their_exact_scores_and_evidence(index: CaseIndex, against: str) -> None:
    entries = [entry(f"s{n:02}", n, regions=1 + n % 25) for n in range(MANY)]
    index.put(entries)
    vectors = units(np.random.default_rng(99), 4)
    expected = sorted((-score(vectors, against, e), e.slide_id) for e in entries)
    hits = index.search(Query(vectors, against, MODEL, count=7))
    assert [hit.entry.slide_id for hit in hits] == [slide_id for _, slide_id in expected[:7]]
    np.testing.assert_allclose([hit.score for hit in hits], [-s for s, _ in expected[:7]], atol=1e-3)
    for hit in hits:
        cosines = vectors @ hit.entry.vectors.regions.T
        assert sorted(pair.here for pair in hit.pairs) == [0, 1, 2, 3]
        assert [pair.similarity for pair in hit.pairs] == sorted(
            (pair.similarity for pair in hit.pairs), reverse=True
        )
        for pair in hit.pairs:
            best = int(cosines[pair.here].argmax())
            assert pair.box == tuple(hit.entry.vectors.boxes[best])
            assert pair.similarity == pytest.approx(cosines[pair.here, best], abs=1e-3)


def score(vectors: np.ndarray, against: str, found: CaseEntry) -> float:
    if against == "regions":
        return float((vectors @ found.vectors.regions.T).max(axis=1).mean())
    return float((vectors @ (found.vectors.slide if against == "slides" else found.words)).mean())


def test_a_case_is_one_hit_however_many_slides_it_has(index: CaseIndex) -> None:
    near = units(np.random.default_rng(5), 1)[0]
    index.put([entry(f"p{n:02}", n, near=near, owner="case/1") for n in range(30)])
    index.put([entry("other", 50), entry("another", 51)])
    query = Query(near[None], "regions", MODEL, count=3)
    assert index.search(query)[0].entry.owner == "case/1"
    assert len(index.search(query)) == 3


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), "abcd"),
        (Filters(organ="SKIN"), "ab"),
        (Filters(organ="straße"), "d"),
        (Filters(stain="h&e"), "ac"),
        (Filters(site="arm"), "b"),
        (Filters(since="2024-02-01"), "bc"),
        (Filters(until="2024-02-01"), "ab"),
        (Filters(since="2024-02-01", until="2024-02-01"), "b"),
        (Filters(signed=True), "ac"),
        (Filters(signed=False), "bd"),
        (Filters(synthetic=False), "abc"),
        (Filters(without=frozenset({"a", "case/o'c", "no one"})), "bd"),
        (Filters(organ="skin", signed=False), "b"),
        (Filters(organ="kidney"), ""),
        (Filters(organ="' OR 1=1 --"), ""),
    ],
    ids=str,
)
def test_filters_say_which_entries_count(index: CaseIndex, filters: Filters, found: str) -> None:
    index.put(
        [
            entry("a", 1, organ="Skin", stain="H&E", signed=True, date="2024-01-31"),
            entry("b", 2, organ="skin", site="Arm", date="2024-02-01"),
            entry("c", 3, organ="Lung", stain="h&e", signed=True, date="2024-03-01", owner="case/o'c"),
            entry("d", 4, organ="Straße", synthetic=True),
        ]
    )
    assert sorted(ids(index, like(entry("q"), filters=filters))) == list(found)


def test_vectors_of_other_models_are_not_compared_even_of_another_size(index: CaseIndex) -> None:
    index.put([entry("a", 1), entry("b", 1, size=8, model="other")])
    assert ids(index, like(entry("q"))) == ["a"]
    assert ids(index, like(entry("q", size=8, model="other"))) == ["b"]
    assert ids(index, like(entry("q", size=8, model="a third"))) == []


def test_a_slide_has_one_entry_the_last_put(index: CaseIndex) -> None:
    index.put([entry("a", 1, text="first"), entry("a", 2, text="second")])
    assert index.find("a").text == "second"
    index.put([entry("a", 3, text="third", organ="Lung", owner="case/9")])
    assert_same(index.find("a"), entry("a", 3, text="third", organ="Lung", owner="case/9"))
    assert index.state().slides == 1
    assert ids(index, like(entry("a", 2))) == ["a"]


def test_a_draft_does_not_replace_the_signed_report_but_another_report_does(index: CaseIndex) -> None:
    index.put([entry("a", 1, text="draft", report_digest="r")])
    index.put([entry("a", 1, text="signed", report_digest="r", signed=True)])
    index.put([entry("a", 1, text="draft again", report_digest="r")])
    assert index.find("a").text == "signed"
    index.put([entry("a", 1, text="corrected", report_digest="r", signed=True)])
    assert index.find("a").text == "corrected"
    index.put([entry("a", 1, text="new draft", report_digest="s")])
    assert index.find("a").text == "new draft"


def test_what_is_withdrawn_is_found_no_more_by_anyone(
    index: CaseIndex, open_again: Callable[[], CaseIndex]
) -> None:
    other = open_again()
    index.put([entry("a1", 1, owner="case/a"), entry("a2", 2, owner="case/a"), entry("b", 3)])
    assert len(ids(other, like(entry("q")))) == 2
    assert index.withdraw(["case/a", "nobody", "it's"]) == 2
    assert index.withdraw(["case/a"]) == 0
    for opened in (index, open_again()):
        assert opened.find("a1") is None
        assert ids(opened, like(entry("a1", 1))) == ["b"]
        assert opened.state().slides == 1


def test_compaction_changes_nothing_that_is_found(index: CaseIndex) -> None:
    kept = [entry(f"s{n}", n, signed=n % 2 == 0) for n in range(5)]
    for one in kept:
        index.put([one])
    index.put([entry("gone", 9)])
    index.withdraw(["gone"])
    for _ in range(2):
        index.compact()
        for one in kept:
            assert_same(index.find(one.slide_id), one)
        assert len(ids(index, like(entry("q")))) == 5


def test_what_is_withdrawn_is_dropped_together_with_others_that_are(index: CaseIndex) -> None:
    index.put([entry(name, n) for n, name in enumerate(("a", "b", "c", "d"))])
    assert index.drop_withdrawn(lambda: ["b"]) == 0, "nothing was withdrawn"
    index.withdraw(["a"])
    assert index.drop_withdrawn(lambda: ["a", "b", "nobody"]) == 1
    assert sorted(ids(index, like(entry("q")))) == ["c", "d"]
    assert index.drop_withdrawn(lambda: ["c"]) == 0, "nothing is left to be dropped"
    assert [copy and copy.slide_id for copy in (*index.copies("c"), *index.copies("a"))] == ["c", None]


def test_a_rebuild_holds_its_entries_and_what_was_put_and_withdrawn_meanwhile(
    index: CaseIndex, open_again: Callable[[], CaseIndex]
) -> None:
    other = open_again()
    index.put([entry("old", 0), entry("kept", 1)])
    before = index.state().version

    def entries() -> Iterator[CaseEntry]:
        yield entry("kept", 1)
        yield entry("withdrawn", 2)
        yield entry("replaced", 3, text="before")
        yield entry("signed", 4, text="signed", signed=True)
        assert sorted(ids(other, like(entry("q")))) == ["kept", "old"]
        other.put([entry("put", 5), entry("replaced", 6, text="after"), entry("signed", 4, text="a draft")])
        other.put([entry("came and went", 7)])
        other.withdraw(["withdrawn", "came and went"])
        yield entry("withdrawn", 2)

    counts: list[int] = []
    state = index.rebuild(MODEL, entries, progress=counts.append)
    assert counts[-1] == 5
    assert (state.version > before, state.model, state.slides) == (True, MODEL, 4)
    for opened in (index, open_again()):
        assert sorted(ids(opened, like(entry("q")))) == ["kept", "put", "replaced", "signed"]
        assert opened.find("replaced").text == "after"
        assert opened.find("signed").text == "signed"


def test_a_rebuild_that_fails_leaves_the_index_as_it_was(index: CaseIndex) -> None:
    index.put([entry("a", 1)])

    def entries() -> Iterator[CaseEntry]:
        yield entry("b", 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        index.rebuild(MODEL, entries, progress=lambda _: None)
    assert ids(index, like(entry("q"))) == ["a"]
    index.rebuild(MODEL, lambda: [entry("c", 3)], progress=lambda _: None)
    assert ids(index, like(entry("q"))) == ["c"]


def test_the_state_says_what_is_there(index: CaseIndex) -> None:
    index.put(
        [
            entry("a", 1, owner="case/1", organ="Skin", regions=2),
            entry("b", 2, owner="case/1", organ="Lung", regions=25),
            entry("c", 3, regions=1),
        ]
    )
    state = index.state()
    assert (state.cases, state.slides, state.regions) == (2, 3, 28)
    assert (state.model, state.organs) == (MODEL, ("Lung", "Skin"))
    assert state.size_bytes > 0


@pytest.mark.parametrize(
    "change",
    [
        {"regions": 0},
        {"regions": 26},
        {"slide_id": ""},
        {"owner": ""},
        {"model": ""},
    ],
    ids=str,
)
def test_an_entry_that_nothing_could_find_is_refused(index: CaseIndex, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="an entry"):
        index.put([entry(**{"slide_id": "a", **change})])  # type: ignore[arg-type]


def test_vectors_that_are_no_directions_are_refused(index: CaseIndex) -> None:
    broken = entry("a")
    broken.vectors.regions[1] = np.nan
    with pytest.raises(ValueError, match="unit length"):
        index.put([broken])
    with pytest.raises(ValueError, match="unit length"):
        index.search(like(broken))

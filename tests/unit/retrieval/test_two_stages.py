"""Searching in memory: candidates, exact scores, and what is new, gone or rare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from case_entries import MODEL, entry
from made_up_slides import Maker, directions, exact, many, tissue

from histgen_lib.retrieval import CaseEntry, Filters, Floats, Query, Vectors, _shard, _two_stages
from histgen_lib.retrieval._lance_rows import FLAGS, TEXTS, to_rows
from histgen_lib.retrieval._postings import Codebook, as_floats
from histgen_lib.retrieval._shard import Shard, View

SLIDES, REGIONS, SIZE, COUNT = 3_000, 8, 32, 10


def entries_of(regions: np.ndarray) -> list[CaseEntry]:
    boxes = np.ones((REGIONS, 4), np.int32)
    return [
        CaseEntry(
            f"{n}", f"{n}", "r", Vectors(some[0], some, boxes), some[1], "t", MODEL, organ=f"organ {n % 30}"
        )
        for n, some in enumerate(regions.astype(np.float32))
    ]  # fmt: skip


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch) -> None:
    """File regions from few entries on, so that searches have two stages."""
    monkeypatch.setattr(_shard, "FILED_FROM", 1_000)
    monkeypatch.setattr(_two_stages, "_ALL", 50)


def shard_of(entries: list[CaseEntry]) -> Shard:
    shard = Shard(SIZE)
    (batch,) = to_rows(entries).to_batches()
    shard.add(batch)
    return shard


def ids(view: View, queries: Floats, filters: Filters | None = None, count: int = COUNT) -> list[int]:
    hits = _two_stages.search(view, Query(queries, "regions", MODEL, count, filters or Filters()))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return [int(hit.entry.slide_id) for hit in hits]


def recall(found: list[int], scores: Floats) -> float:
    return len(set(np.argsort(-scores)[:COUNT].tolist()) & set(found)) / COUNT


@pytest.mark.usefixtures("filed")
@pytest.mark.parametrize(
    ("make", "queries"),
    [(tissue, 1), (tissue, 2), (tissue, REGIONS), (tissue, 20), (directions, REGIONS), (directions, 2)],
)
def test_two_stages_find_what_comparing_all_finds(make: Callable[[int], Maker], queries: int) -> None:
    """Also among random directions, where estimates say little: then more are compared."""
    regions = many(make(SIZE), SLIDES, REGIONS, SIZE)
    view = shard_of(entries_of(regions)).view()
    assert view.postings is not None
    asked = make(SIZE)(12, 20, np.random.default_rng(5))[:, :queries]
    assert np.mean([recall(ids(view, some), exact(regions, some)) for some in asked]) >= 0.98


@pytest.mark.usefixtures("filed")
def test_a_rare_organ_returns_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = many(tissue(SIZE), SLIDES, REGIONS, SIZE)
    view = shard_of(entries_of(regions)).view()
    rare = Filters(organ="ORGAN 7")
    for all_compared in (50, 1_000):
        monkeypatch.setattr(_two_stages, "_ALL", all_compared)
        for some in tissue(SIZE)(5, REGIONS, np.random.default_rng(6)):
            scores = exact(regions, some)
            scores[np.arange(SLIDES) % 30 != 7] = -1.0
            assert recall(ids(view, some, rare), scores) == 1.0


@pytest.mark.usefixtures("filed")
def test_what_is_new_replaced_or_gone_shows_at_once_though_regions_are_filed() -> None:
    regions = many(tissue(SIZE), SLIDES, REGIONS, SIZE)
    entries = entries_of(regions)
    shard = shard_of(entries)
    before = shard.view()
    new = entries_of(directions(SIZE)(1, REGIONS, np.random.default_rng(7)))[0]
    new = CaseEntry(**{**new.__dict__, "slide_id": "77", "owner": "77"})
    (batch,) = to_rows([new]).to_batches()
    shard.add(batch)
    shard.drop(["78"])
    after = shard.view()
    assert after.filed == SLIDES
    assert ids(after, new.vectors.regions)[0] == 77
    assert ids(after, entries[78].vectors.regions)[0] != 78
    assert ids(after, entries[77].vectors.regions)[0] != 77
    assert len(ids(after, entries[77].vectors.regions, count=SLIDES)) == SLIDES - 1
    assert ids(before, entries[77].vectors.regions)[0] == 77, "a view has changed"
    assert ids(before, entries[78].vectors.regions)[0] == 78, "a view has changed"


@pytest.mark.usefixtures("filed")
def test_many_slides_of_one_case_do_not_hide_the_others() -> None:
    regions = many(tissue(SIZE), SLIDES, REGIONS, SIZE)
    entries = entries_of(regions)
    near = entries[0].vectors
    same = [CaseEntry(**{**e.__dict__, "owner": "case/1", "vectors": near}) for e in entries[:1_500]]
    view = shard_of(same + entries[1_500:]).view()
    found = ids(view, near.regions)
    assert len(found) == COUNT
    assert sum(number < 1_500 for number in found) == 1


def test_halves_become_floats_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(as_floats(finite), finite.astype(np.float32))


def test_a_regions_centroid_is_nearly_always_the_nearest() -> None:
    vectors = tissue(SIZE)(500, REGIONS, np.random.default_rng(1)).reshape(-1, SIZE)
    codebook = Codebook(vectors, 128, np.random.default_rng(2))
    nearest = (vectors @ codebook.centroids.T).argmax(axis=1)
    assert np.mean(codebook.codes(vectors) == nearest) > 0.9
    np.testing.assert_allclose(np.linalg.norm(codebook.centroids, axis=1), 1.0, atol=1e-5)


def test_fewer_regions_than_centroids_are_no_trouble() -> None:
    vectors = directions(SIZE)(1, 5, np.random.default_rng(1))[0]
    assert len(set(Codebook(vectors, 64, np.random.default_rng(2)).codes(vectors).tolist())) == 5


def test_entries_come_out_as_they_went_in() -> None:
    put = entry(
        "a", 1, size=SIZE, regions=25, organ="Skin", stain="H&E", site="arm", date="2024-02-29", signed=True
    )
    view = shard_of([entry("b", 2, size=SIZE), put]).view()
    found = view.entry(view.slots["a"])
    np.testing.assert_array_equal(found.vectors.boxes, put.vectors.boxes)
    np.testing.assert_allclose(found.vectors.regions, put.vectors.regions, atol=1e-3)
    texts = (*TEXTS, *FLAGS)
    assert [getattr(found, name) for name in texts] == [getattr(put, name) for name in texts]

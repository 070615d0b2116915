"""The case index with 100,000 slides of 25 regions, beside FAISS and LanceDB alone (`make bench-cases`).

Prints how long the index takes to be written and read, what it takes on disk and in memory, recall@10
against exact MaxSim and the time of a search: with 25 vectors and with fewer, with a filter that lets 1 % of
the slides through, by the slides' own vectors, and from the storage, as processes do that search only now and
then. Our products take one thread, as in the search service.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from made_up_slides import directions, exact, exact_of_all, many, tissue
from threadpoolctl import threadpool_limits

from histgen_lib.cores import cores
from histgen_lib.retrieval import (
    CaseEntry,
    CaseIndex,
    CaseIndexSettings,
    Filters,
    Floats,
    Query,
    Vectors,
    open_case_index,
)
from histgen_lib.retrieval._port import Against
from histgen_lib.storage import StorageSettings

SLIDES, REGIONS, COUNT = 100_000, 25, 10
QUERIES, WARM_UP = 60, 10
MODEL = "m" * 64
REPORT = "Section of skin with a nested melanocytic proliferation. " * 12

EVERYTHING = Filters()

Found = tuple[list[int], float]
"""The numbers of the slides found, and the seconds that took."""


def entries(regions: npt.NDArray[np.float16]) -> Iterator[CaseEntry]:
    boxes = np.ones((REGIONS, 4), np.int32)
    for number, halves in enumerate(regions):
        some = halves.astype(np.float32)
        middle = some.mean(axis=0) / np.linalg.norm(some.mean(axis=0))
        yield CaseEntry(
            f"slide-{number:06}", f"slide-{number:06}", f"{number:064}", Vectors(middle, some, boxes), middle,
            REPORT, MODEL, signed=True, organ=f"organ {number % 100}", date="2024-05-01",
        )  # fmt: skip


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000


def show(name: str, asked: list[Floats], ask: Callable[[Floats], Found], best: list[set[int]]) -> float:
    """Ask all; print recall and times; return the median in seconds."""
    for queries in asked[:WARM_UP]:
        ask(queries)
    found = [ask(queries) for queries in asked]
    recall = statistics.mean(
        len(best_of & set(ids)) / COUNT for best_of, (ids, _) in zip(best, found, strict=True)
    )
    seconds = sorted(took for _, took in found)
    p95 = seconds[int(0.95 * len(seconds))]
    print(
        f"  {name:44} recall@{COUNT} {recall:.3f}   median {1000 * statistics.median(seconds):7.1f} ms"
        f"   p95 {1000 * p95:7.1f} ms", flush=True,
    )  # fmt: skip
    return statistics.median(seconds)


def asking(
    index: CaseIndex, filters: Filters = EVERYTHING, against: Against = "regions"
) -> Callable[[Floats], Found]:
    def ask(queries: Floats) -> Found:
        began = time.perf_counter()
        hits = index.search(Query(queries, against, MODEL, COUNT, filters))
        took = time.perf_counter() - began
        return [int(hit.entry.slide_id.removeprefix("slide-")) for hit in hits], took

    return ask


def best_of(scores: Floats) -> list[set[int]]:
    return [set(np.argpartition(-row, COUNT)[:COUNT].tolist()) for row in scores]


def rare_only(scores: Floats) -> Floats:
    """Return the scores with all but one slide of a hundred out of the way."""
    return np.where(np.arange(scores.shape[1]) % 100 == 7, scores, -np.inf)


def middles(regions: npt.NDArray[Any]) -> Floats:
    """Return the slides' own vectors float32[slides, d], as `entries` has them. `regions` [slides, R, d]."""
    means = np.stack([some.astype(np.float32).mean(axis=0) for some in regions])
    vectors: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("kind", "size", "queries"), [("tissue", 128, 60), ("tissue", 256, 60), ("directions", 128, 10)]
)
def test_many_slides(kind: str, size: int, queries: int, tmp_path: Path) -> None:
    make = {"tissue": tissue, "directions": directions}[kind](size)
    regions = many(make, SLIDES, REGIONS, size)
    asked = list(make(queries, REGIONS, np.random.default_rng(2)))
    single = [queries[:1] for queries in asked]
    print(f"\n{SLIDES:,} slides of {REGIONS} regions, {kind}, d = {size}, {cores()} cores")
    storage = StorageSettings(f"file:{tmp_path / 'index'}")
    writer = open_case_index(CaseIndexSettings(storage))
    began = time.monotonic()
    state = writer.rebuild(MODEL, lambda: entries(regions), progress=lambda _: None)
    print(f"  written in {time.monotonic() - began:.0f} s; {state.size_bytes / 1e6:,.0f} MB of storage")
    before, began = resident_mb(), time.monotonic()
    index = open_case_index(CaseIndexSettings(storage, resident=True))
    index.state()
    print(f"  read in {time.monotonic() - began:.0f} s; {resident_mb() - before:,.0f} MB of memory")
    scores, scores_single = exact_of_all(regions, asked), exact_of_all(regions, single)
    best, best_single = best_of(scores), best_of(scores_single)
    with threadpool_limits(1):
        ours = show("25 vectors", asked, asking(index), best)
        ours_single = show("1 vector", single, asking(index), best_single)
        for count in (2, 4, 8):
            fewer = [some[:count] for some in asked]
            show(f"{count} vectors", fewer, asking(index), best_of(exact_of_all(regions, fewer)))
        rare = asking(index, Filters(organ="organ 7"))
        show("25 vectors, a filter of 1 %", asked, rare, best_of(rare_only(scores)))
        show("1 vector, a filter of 1 %", single, rare, best_of(rare_only(scores_single)))
        whole = [some[None] for some in middles(np.stack(asked))]
        best_whole = best_of(np.concatenate(whole) @ middles(regions).T)
        show("a slide's own vector", whole, asking(index, against="slides"), best_whole)
        few, rest = slice(0, WARM_UP), "from storage each time"
        show(f"a slide's own vector, {rest}", whole[few], asking(writer, against="slides"), best_whole[few])
        show(f"25 vectors, {rest}", asked[few], asking(writer), best[few])
    began = time.monotonic()
    writer.withdraw(["slide-000000"])
    writer.compact()
    print(f"  compacted in {time.monotonic() - began:.0f} s")
    index.close()
    writer.close()
    del index
    compare_with_faiss(regions, (asked, best, ours), (single, best_single, ours_single))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"  peak memory of all of this, {peak:,.0f} MB")


Asked = tuple[list[Floats], list[set[int]], float]


def compare_with_faiss(regions: npt.NDArray[np.float16], *asked: Asked) -> None:
    """Search with FAISS alone: regions near to each of the query's, their slides scored exactly."""
    import faiss

    faiss.omp_set_num_threads(cores())
    size = regions.shape[2]
    vectors = regions.reshape(-1, size).astype(np.float32)
    flat = faiss.IndexFlatIP(size)
    pq: Any = faiss.index_factory(size, f"IVF4096,PQ{size // 4}x8", faiss.METRIC_INNER_PRODUCT)
    for name, peer, prepare in (
        ("FAISS, flat", flat, lambda: None),
        ("FAISS, IVF4096,PQ", pq, lambda: pq.train(vectors[:: max(1, len(vectors) // 200_000)])),
    ):
        began = time.monotonic()
        prepare()
        peer.add(vectors)
        print(f"  {name} built in {time.monotonic() - began:.0f} s")
        for near, (queries, best, ours) in ((near, one) for one in asked for near in (100, 1000)):
            if peer is pq:
                pq.nprobe = 64
            elif near == 100:
                continue
            some = queries if peer is pq else queries[:WARM_UP]
            theirs = show(
                f"{name}, {len(queries[0])} vector(s), {near} near each",
                some, faiss_asking(peer, regions, near), best[: len(some)],
            )  # fmt: skip
            print(f"    that is {theirs / ours:.1f} times our median")


def faiss_asking(peer: object, regions: npt.NDArray[np.float16], near: int) -> Callable[[Floats], Found]:
    def ask(queries: Floats) -> Found:
        began = time.perf_counter()
        cosines, numbers = peer.search(queries, near)  # type: ignore[attr-defined]
        estimate = np.full((len(queries), len(regions)), cosines[:, -1:], np.float32)
        for row, places in enumerate(numbers):
            estimate[row, places[::-1] // REGIONS] = cosines[row, ::-1]  # the best last, which stays
        first = np.argpartition(-estimate.mean(axis=0), 500)[:500]
        scores = exact(regions[first], queries)
        ids = first[np.argsort(-scores)[:COUNT]].tolist()
        return ids, time.perf_counter() - began

    return ask


@pytest.mark.timeout(7200)
def test_lancedb_alone(tmp_path: Path) -> None:
    """LanceDB's own index of several vectors a row, with far fewer slides: it takes too long for more."""
    import lancedb
    from lancedb.index import IvfPq

    slides, size = 5_000, 128
    make = tissue(size)
    regions = many(make, slides, REGIONS, size)
    asked = list(make(QUERIES, REGIONS, np.random.default_rng(2)))
    best = best_of(exact_of_all(regions, asked))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(regions.astype(np.float32).ravel()), size)
    starts = pa.array(np.arange(slides + 1, dtype=np.int32) * REGIONS)
    rows = pa.table({"id": np.arange(slides), "vectors": pa.ListArray.from_arrays(starts, vectors)})
    table: Any = lancedb.connect(tmp_path / "alone").create_table("alone", rows)
    began = time.monotonic()
    table.create_index("vectors", config=IvfPq(distance_type="cosine", num_partitions=64))
    print(
        f"\n{slides:,} slides of {REGIONS} regions, d = {size}: indexed in {time.monotonic() - began:.0f} s"
    )
    for name, probes, refine in (("", 20, 1), (", all looked into", 64, 1), (", refined", 64, 4)):

        def ask(queries: Floats, probes: int = probes, refine: int = refine) -> Found:
            began = time.perf_counter()
            query = table.search(queries).nprobes(probes).refine_factor(refine).select(["id", "_distance"])
            ids = query.limit(COUNT).to_arrow().column("id").to_pylist()
            return ids, time.perf_counter() - began

        show(f"LanceDB, 25 vectors{name}", asked, ask, best)

"""A real service, on LanceDB, a store and the networks: the four tasks, and what happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endless_writer import killed_writer
from planted_cases import PlantedCases, share
from search_process import SearchProcess
from servers.s3_servers import S3Server
from slow_way import SlowWay
from tiny_retrieval import KINDS, report_of
from waiting import until

from histgen_lib.retrieval import CaseIndexSettings, open_case_index


def kinds(hits: list[dict[str, Any]], count: int = 2) -> set[str]:
    return {hit["report"]["diagnosis"] for hit in hits[:count]}


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("find", ["cases", "reports"])
def test_a_slide_and_words_find_their_kind(search: SearchProcess, kind: int, find: str):
    hits = search.found(slide=f"k{kind}-0", find=find)
    assert kinds(hits) == {KINDS[kind]}
    assert f"k{kind}-0" not in {hit["slide_id"] for hit in hits}
    assert kinds(search.found(text=report_of(kind), find=find)) == {KINDS[kind]}


def test_a_region_finds_its_kind_and_the_evidence_lies_in_the_lesions(
    search: SearchProcess, cases: PlantedCases
):
    lesion = cases.slide("k1-0", 1, 0).lesion
    answer = search.ask(slide="k1-0", region=list(lesion), count=2).json()
    assert (answer["task"], answer["source"]) == ("region-cases", "bag")
    assert kinds(answer["hits"]) == {KINDS[1]}
    for hit in answer["hits"]:
        best = hit["pairs"][0]
        theirs = cases.slide(hit["slide_id"], 1, int(hit["slide_id"][-1])).lesion
        assert share(tuple(best["here"]), lesion) > 0.3
        assert share(tuple(best["there"]), theirs) > 0.3


def test_a_slide_that_only_the_store_has_is_encoded(search: SearchProcess):
    answer = search.ask(slide="new").json()
    assert answer["source"] == "bag"
    assert kinds(answer["hits"]) == {KINDS[2]}


def test_filters_and_refusals_hold_on_the_real_index(search: SearchProcess):
    assert search.found(text="x", organ="specimen")
    assert search.found(text="x", signed=True) == []
    for asked, code in (
        ({"text": "x", "organ": "Lung"}, "organ-unknown"),
        ({"slide": "nobody"}, "query-slide-unknown"),
        ({"slide": "k1-0", "region": [99_999, 0, 10, 10]}, "query-region-outside"),
        ({"text": "x" * 1_000_000}, "request-too-large"),
    ):
        answer = search.ask(**asked)
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]["code"] == code


@pytest.fixture
def own(cases: PlantedCases, tmp_path: Path) -> Iterator[SearchProcess]:
    """Run a service whose index the test changes."""
    running = SearchProcess(tmp_path, cases.model)
    index = running.open_index()
    index.put(cases.entries(each=2))
    index.close()
    yield running.start()
    running.kill()


@contextmanager
def searching(search: SearchProcess, **asked: Any) -> Iterator[list[int]]:
    """Search again and again while the block runs; yield the statuses of the answers so far."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(search.ask(**asked).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join()


def further(statuses: list[int]) -> None:
    """Wait for a few answers more."""
    wanted = len(statuses) + 3
    until(lambda: len(statuses) >= wanted, 60, "further answers")


def test_searches_go_on_while_a_writer_is_killed(own: SearchProcess, cases: PlantedCases):
    entries = [cases.entry(cases.slide(f"w{number}", number, number)) for number in range(4)]
    with searching(own, text=report_of(1), count=50) as statuses:
        for _ in range(3):
            killed_writer(CaseIndexSettings(own.index_at), entries)
            further(statuses)
    assert set(statuses) == {200}
    found = [hit["slide_id"] for hit in own.found(text=report_of(1), count=50)]
    assert len(set(found)) == len(found)
    assert {f"k{kind}-{number}" for kind in range(4) for number in range(2)} <= set(found)


def test_what_is_written_is_found_soon(own: SearchProcess, cases: PlantedCases):
    index = own.open_index()
    index.put([cases.entry(cases.slide("late", 3, 55))])
    until(lambda: "late" in ids_of(own, slide="k3-0"), 20, "it is found")
    index.withdraw(["late"])
    until(lambda: "late" not in ids_of(own, slide="k3-0"), 20, "it is found no more")
    index.close()


def ids_of(search: SearchProcess, **asked: Any) -> set[str]:
    return {hit["slide_id"] for hit in search.found(count=50, **asked)}


def test_searches_go_on_while_the_index_is_rebuilt_and_compacted(own: SearchProcess, cases: PlantedCases):
    index = own.open_index()
    entries = cases.entries(each=4)
    with searching(own, slide="k0-0") as statuses:
        state = index.rebuild(cases.network.digest, lambda: iter(entries), progress=lambda _: None)
        index.compact()
        until(lambda: own.get("/state").json()["version"] == state.version, 30, "the new version is searched")
        index.compact()
        further(statuses)
    assert set(statuses) == {200}
    assert own.get("/state").json()["slides"] == 16
    index.close()


Route = Callable[[SearchProcess], set[str]]
ROUTES: dict[str, Route] = {
    "slide-cases": lambda search: ids_of(search, slide="k2-0"),
    "slide-reports": lambda search: ids_of(search, slide="k2-0", find="reports"),
    "text-cases": lambda search: ids_of(search, text=report_of(2)),
    "text-reports": lambda search: ids_of(search, text=report_of(2), find="reports"),
    "region-cases": lambda search: ids_of(search, slide="k2-0", region=[0, 0, 2304, 2304]),
    "region-reports": lambda search: ids_of(search, slide="k2-0", region=[0, 0, 2304, 2304], find="reports"),
    "case": lambda search: {"k2-1"} if search.get("/cases", params={"slide": "k2-1"}).is_success else set(),
}


def test_a_withdrawn_case_is_returned_by_no_route_though_no_librarian_runs(own: SearchProcess):
    assert all("k2-1" in route(own) for route in ROUTES.values())
    own.store.put("withdrawn/k2-1.json", b"{}")
    for name, route in ROUTES.items():
        until(lambda route=route: "k2-1" not in route(own), 30, f"{name} leaves it out")
    index = own.open_index()
    index.withdraw(["k2-1"])
    index.close()
    assert not any("k2-1" in route(own) for route in ROUTES.values())


def test_searches_go_on_while_s3_does_not_answer_and_say_how_old_they_are(
    cases: PlantedCases, tmp_path: Path, moto_server: S3Server
):
    index, store = (moto_server.settings(moto_server.make_bucket(), "here") for _ in range(2))
    search = SearchProcess(tmp_path, cases.model, index=index, store=store, store_timeout_s=1)
    opened = search.open_index()
    opened.put(cases.entries(each=2))
    opened.close()
    search.start()
    try:
        moto_server.pause()
        stuck = threading.Thread(target=search.ask, kwargs={"slide": "unknown"})
        stuck.start()
        for asked in (
            {"slide": "k1-0"},
            {"text": report_of(1)},
            {"slide": "k1-0", "region": [0, 0, 2304, 2304]},
            {"slide": "k1-0", "find": "reports"},
        ):
            answer = search.ask(**asked)
            assert answer.status_code == 200, answer.text
            assert kinds(answer.json()["hits"], 1) == {KINDS[1]}
            assert search.get("/healthz").status_code == search.get("/readyz").status_code == 200
        until(lambda: search.ask(slide="k1-0").json()["index"]["behind_s"] > 1, 30, "the age shows")
        moto_server.resume()
        until(lambda: search.get("/state").json()["behind_s"] < 1, 60, "it is current again")
        stuck.join()
    finally:
        moto_server.resume()
        search.kill()


def test_on_a_slow_way_to_s3_searches_are_answered_and_writes_arrive(
    cases: PlantedCases, tmp_path: Path, moto_server: S3Server
):
    way = SlowWay(moto_server.port)
    straight = moto_server.settings(moto_server.make_bucket(), "here")
    index, store = (
        replace(straight, endpoint=f"http://127.0.0.1:{way.port}", url=f"{straight.url}/{name}")
        for name in ("index", "store")
    )
    search = SearchProcess(tmp_path, cases.model, index=index, store=store)
    opened = open_case_index(CaseIndexSettings(replace(index, endpoint=straight.endpoint)))
    opened.put(cases.entries(each=2))
    search.start()
    way.delay_s = 1.0
    try:
        with searching(search, slide="k1-0", count=50) as statuses:
            opened.put([cases.entry(cases.slide("late", 1, 55))])
            until(lambda: "late" in ids_of(search, slide="k1-0"), 120, "it is found", every_s=0.5)
            further(statuses)
        assert set(statuses) == {200}
    finally:
        opened.close()
        search.kill()
        way.close()


def test_it_stops_cleanly(cases: PlantedCases, tmp_path: Path):
    """An index that nobody has written to is searched, too: nothing is found."""
    running = SearchProcess(tmp_path, cases.model).start()
    try:
        assert running.found(text="anything") == []
        assert running.found(text="anything", organ="Lung") == []
        assert running.stop() == 0
    finally:
        running.kill()

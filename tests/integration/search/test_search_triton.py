"""The search service on a real Triton, and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planted_cases import PlantedCases, keep_bag
from search_process import SearchProcess
from tiny_retrieval import KINDS, report_of
from waiting import until

from histgen_lib.export import export_local
from histgen_lib.stack.triton import TritonProcess


def test_triton_encodes_what_is_asked_and_stored_slides_are_found_without_it(
    cases: PlantedCases, start_triton: Callable[[Path], TritonProcess], tmp_path: Path
):
    triton = start_triton(export_local(cases.model, tmp_path / "repository"))
    search = SearchProcess(tmp_path, cases.model, inference=triton.url)
    index = search.open_index()
    index.put(cases.entries(each=2))
    index.close()
    for slide_id in ("k1-0", "new"):
        keep_bag(search.store, cases.slide(slide_id, 1, 0).bag)
    search.start()
    everything = [0, 0, 2304, 2304]
    try:
        for asked in (
            {"text": report_of(1)},
            {"text": report_of(1), "find": "reports"},
            {"slide": "new"},
            {"slide": "k1-0", "region": everything},
        ):
            (best, *_) = search.found(**asked)
            assert best["report"]["diagnosis"] == KINDS[1]
        triton.kill()
        for asked in ({"slide": "k1-0"}, {"slide": "k1-0", "region": everything}):
            answer = search.ask(**asked)
            assert answer.status_code == 200, answer.text
            assert answer.json()["source"] == "index"
        for asked in ({"text": "anything"}, {"slide": "new"}):
            answer = search.ask(**asked)
            assert answer.status_code == 503
            assert "retry-after" in answer.headers
        assert search.get("/readyz").status_code == 200
        up = 'histgen_dependency_up{dependency="model",worker="search"} 0.0'
        until(lambda: up in search.get("/metrics").text, 30, "the outage shows")
    finally:
        search.kill()

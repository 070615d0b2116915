"""A reporter of flesh and blood beside a case index: a real one, and one that is away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from job_kit import NOW, event_of, scanned
from running_services import MINUTES_S, Services
from similar_lab import SimilarLab, draft_in, page_in
from tiny_retrieval import tiny_retrieval_model
from waiting import until

from histgen_lib.events import Event
from histgen_lib.retrieval import CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings


@pytest.fixture
def lab(tmp_path) -> SimilarLab:
    return SimilarLab.scanned(tmp_path, tiny_retrieval_model())


def fill(lab: SimilarLab, folder: Path) -> str:
    """Fill an index with two cases that this slide's draft may cite; return its URL."""
    url = f"file:{folder}"
    with closing(open_case_index(CaseIndexSettings(StorageSettings(url)))) as index:
        index.put([lab.signed("a", 1), lab.signed("b", 2), lab.signed("sound", 3)])
    return url


@contextmanager
def reporter(lab: SimilarLab, **settings: str) -> Iterator[Services]:
    services = Services(lab.lab.folder, tiny_retrieval_model(), ("reporter",), **settings)
    try:
        yield services
    finally:
        services.kill()


def ready_event(lab: SimilarLab) -> Event:
    slide = lab.lab.folder / "sound.tif"
    return event_of(scanned(slide)).then(lab.ready, source="/histgen/test", now=NOW)


def test_its_draft_shows_the_cases_of_the_index(lab, tmp_path):
    with reporter(
        lab, case_index=fill(lab, tmp_path / "index"), similar_cases="1", similar_s="60"
    ) as services:
        services.publish(ready_event(lab))
        until(lambda: services.drafted("sound"), MINUTES_S, "the draft")
        metrics = services.get("reporter", "/metrics")
    (case,) = draft_in(services.store).similar.cases

    assert case.slide_id in {"a", "b"}
    assert f"Report of {case.slide_id}." in page_in(services.store)
    assert 'histgen_model_info{digest="' + lab.network[:12] in metrics
    assert 'network="fgcr_image"' in metrics


def test_an_index_behind_a_silent_server_holds_up_no_draft(lab):
    """The server takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"case_index": "s3://away/index", "store_endpoint": endpoint, "similar_s": "0.5"}
        with reporter(lab, **settings) as services:
            services.publish(ready_event(lab))
            until(lambda: services.drafted("sound"), MINUTES_S, "the draft")
            counts = 'histgen_similar_unanswered_total{worker="reporter"} 1.0'
            until(lambda: counts in services.get("reporter", "/metrics"), MINUTES_S, "the metric")
    similar = draft_in(services.store).similar

    assert similar.answer in {"slow", "away"}
    assert similar.cases == ()
    assert "Similar signed cases are missing" in page_in(services.store)

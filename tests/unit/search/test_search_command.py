"""`histgen search` finds the service, asks it, and prints what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from search_client import SearchClient
from search_lab import SPAN_PX, SearchLab

from histgen_lib.cli.app import run
from histgen_lib.client.home import StackHome
from histgen_lib.runtime.web.address import Address
from histgen_lib.runtime.web.server import opened

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackHome:
    for name in ("HISTGEN_SEARCH", "HISTGEN_TOKEN_FILE", "HISTGEN_STORE"):
        monkeypatch.delenv(name, raising=False)
    return StackHome(tmp_path / "home")


@pytest.fixture
def url(home: StackHome, lab: SearchLab) -> Iterator[str]:
    """Run a stack of nothing but a search service."""
    client = SearchClient(lab)
    with home.locked():
        address = Address("127.0.0.1", 0, home.token_path, home.run_dir)
        with opened(client.api.app(), "search", address) as url:
            yield url


@pytest.fixture
def histgen(home: StackHome, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, at_home: bool = True) -> tuple[int, str, str]:
        code = run(["search", *arguments, *(["--home", str(home.folder)] if at_home else [])])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def _json(found: tuple[int, str, str]) -> tuple[int, Any]:
    return found[0], json.loads(found[1])


def test_it_finds_the_service_of_the_stack_and_prints_hits_with_their_evidence(histgen: Run, url: str):
    code, printed, _ = histgen("--slide", "b1", "--count", "2")
    assert code == 0
    first, *evidence = printed.splitlines()
    assert first.startswith("  1  ")
    assert "(Breast" in first
    assert "↔" in evidence[0]


def test_with_json_it_prints_the_services_answer(histgen: Run, url: str):
    code, answer = _json(histgen("--text", "colon", "--organ", "colon", "--find", "reports", "--json"))
    assert code == 0
    assert answer["task"] == "text-reports"
    assert {hit["report"]["organ"] for hit in answer["hits"]} == {"Colon"}


def test_all_options_reach_the_service(histgen: Run, url: str, lab: SearchLab):
    lab.bag("b1", ["breast", "tumour", "stroma"])
    code, answer = _json(histgen("--slide", "b1", "--region", f"{SPAN_PX},0,9,9", "--json"))
    assert (code, answer["task"]) == (0, "region-cases")
    narrow = ("--since", "2024-02-01", "--until", "2024-02-28", "--stain", "HER2", "--site", "north")
    assert [hit["slide_id"] for hit in _json(histgen("--text", "x", *narrow, "--json"))[1]["hits"]] == ["b2"]
    assert [hit["slide_id"] for hit in _json(histgen("--text", "x", "--signed", "--json"))[1]["hits"]] == [
        "b1"
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "query-empty"),
        (("--text", " "), "query-empty"),
        (("--slide", "b1", "--text", "x"), "query-both"),
        (("--slide", "nobody"), "query-slide-unknown"),
        (("--slide", "b1", "--region", "1,2,3"), "query-region-malformed"),
        (("--text", "x", "--organ", "Lung"), "organ-unknown"),
        (("--text", "x", "--since", "soon"), "query-date"),
        (("--text", "x", "--count", "0"), "query-count"),
        (("--text", "x" * 9000), "query-text-too-long"),
        (("--text", "x" * 100_000), "request-too-large"),
    ],
)
def test_a_refusal_ends_with_65_and_its_code(histgen: Run, url: str, arguments, code):
    ended, answer = _json(histgen(*arguments, "--json"))
    assert (ended, answer["error"]["code"]) == (65, code)


def test_a_service_elsewhere_is_asked_by_its_url(histgen: Run, url: str, home: StackHome, monkeypatch):
    monkeypatch.setenv("HISTGEN_TOKEN_FILE", str(home.token_path))
    assert _json(histgen("--text", "x", "--url", url, "--json", at_home=False))[0] == 0
    monkeypatch.setenv("HISTGEN_SEARCH", url)
    monkeypatch.setenv("HISTGEN_HOME", str(home.folder / "nowhere"))
    assert _json(histgen("--text", "x", "--json", at_home=False))[0] == 0
    monkeypatch.setenv("HISTGEN_SEARCH", "http://127.0.0.1:9")
    assert _json(histgen("--text", "x", "--json", at_home=False))[1]["error"]["code"] == "gateway-unreachable"


def test_without_a_stack_or_without_its_search_service_it_says_so(histgen: Run, home: StackHome):
    ended, answer = _json(histgen("--text", "x", "--json"))
    assert (ended, answer["error"]["code"]) == (75, "stack-not-running")
    with home.locked():
        ended, answer = _json(histgen("--text", "x", "--json"))
    assert (ended, answer["error"]["code"]) == (75, "search-not-running")


def test_nothing_found_and_an_index_that_is_away_are_said(histgen: Run, url: str, lab: SearchLab):
    lab.index.entries = {}
    code, printed, _ = histgen("--text", "colon", "--since", "2031-01-01")
    assert code == 0
    assert printed.startswith("No case was found")


def test_an_index_at_hand_takes_a_model(histgen: Run, tmp_path: Path, model_dir: Path):
    ended, answer = _json(histgen("--text", "x", "--index", str(tmp_path), "--json"))
    assert (ended, answer["error"]["code"]) == (65, "search-incomplete")
    missing = ("--text", "x", "--index", str(tmp_path / "none"), "--model", str(model_dir), "--json")
    assert _json(histgen(*missing))[1]["error"]["code"] == "case-index-missing"

"""What docs/search.md has a person type works as it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks_of, commands
from planted_cases import PlantedCases, keep_bag
from search_process import SearchProcess

from histgen_lib.bags import write_bag
from histgen_lib.client.home import StackHome
from services.search.settings import SearchSettings

PAGE = "docs/search.md"
ME = "tests/integration/search/test_search_docs.py"
TYPED = [
    command
    for block in blocks_of((ROOT / PAGE).read_text(encoding="utf-8"), PAGE)
    if block.runner == ME
    for command in commands(block.text)
]


@pytest.fixture(scope="module")
def environment(cases: PlantedCases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run a stack of nothing but the search, on cases with the names of the page."""
    home = StackHome(tmp_path_factory.mktemp("docs") / "home")
    with home.locked():
        search = SearchProcess(home.folder, cases.model, token_file=home.token_path)
        index = search.open_index()
        index.put(
            [*cases.entries(signed=True, date="2024-05-02"), cases.entry(cases.slide("case-7-a", 1, 9))]
        )
        index.close()
        keep_bag(search.store, cases.slide("case-7-a", 1, 9).bag)
        search.start()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "HISTGEN_HOME": str(home.folder),
            "HISTGEN_TOKEN_FILE": str(home.token_path),
            "HISTGEN_SEARCH": search.url,
        }
        search.kill()


def run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", TYPED)
def test_a_command_of_the_page_finds_cases(command: str, environment: dict[str, str]):
    printed = run(command, environment)
    if "--json" in command or "curl" in command:
        assert json.loads(printed)["hits"]
    else:
        assert "↔" in printed


def test_an_answer_has_the_fields_of_the_page(environment: dict[str, str]):
    (shown,) = [
        json.loads(block.text)
        for block in blocks_of((ROOT / PAGE).read_text(encoding="utf-8"), PAGE)
        if block.kind == "json"
    ]
    answer = json.loads(run("histgen search --slide case-7-a --json", environment))
    assert set(answer) == set(shown)
    assert set(answer["index"]) == set(shown["index"])
    assert set(answer["hits"][0]) == set(shown["hits"][0])
    assert set(answer["hits"][0]["report"]) == set(shown["hits"][0]["report"])
    assert set(answer["hits"][0]["pairs"][0]) == set(shown["hits"][0]["pairs"][0])


def test_an_index_is_searched_without_a_stack(
    environment: dict[str, str], cases: PlantedCases, tmp_path: Path
):
    home, bag = environment["HISTGEN_HOME"], tmp_path / "case-9.parquet"
    write_bag(cases.slide("case-9", 2, 91).bag, bag)
    alone = {name: value for name, value in environment.items() if not name.startswith("HISTGEN_")}
    at = f"--index {home}/index --model {cases.model} --json"
    by_words = json.loads(run(f"histgen search --text adenocarcinoma {at}", alone))
    by_bag = json.loads(run(f"histgen search --bag {bag} {at}", alone))
    assert by_words["task"] == "text-cases"
    assert by_bag["source"] == "bag"
    assert by_bag["hits"][0]["report"]["diagnosis"] == "Adenocarcinoma"


def test_the_page_lists_the_services_own_settings():
    own = set(SearchSettings.__annotations__)
    listed = {
        line.split("`")[1].removeprefix("HISTGEN_").lower()
        for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
        if line.startswith("| `HISTGEN_")
    }
    assert listed == own

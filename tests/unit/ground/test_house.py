"""docs/architecture.md says what the code is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
MOST_LINES = 400


def rows(heading: str) -> list[list[str]]:
    table = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_page_lists_the_rooms_in_the_order_that_the_linter_enforces():
    enforced = [re.findall(r"\w+", layer) for layer in CONTRACTS[0]["layers"]]
    shown = [re.findall(r"`(\w+)`", room) for room, _ in rows("Rooms")]

    assert shown == enforced


def test_every_room_exists():
    rooms = [name for room, _ in rows("Rooms") for name in re.findall(r"`(\w+)`", room)]

    for room in rooms:
        path = ROOT / "histgen_lib" / room
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), room


def test_every_door_leads_somewhere():
    named = re.findall(r"`([\w/]+(?:/|\.py|\.md))`", "\n".join(" ".join(row) for row in rows("Doors")))

    assert named
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "histgen_lib" / path).exists(), path


def test_every_folder_of_tests_is_run_by_a_target():
    folders = {"/".join(path.relative_to(ROOT).parts[:2]) for path in (ROOT / "tests").rglob("test_*.py")}
    run = set(re.findall(r"tests/\w+", (ROOT / "Makefile").read_text()))

    assert len(folders) > 5
    assert folders - run == set()


@pytest.mark.parametrize("folder", ["histgen_lib", "services", "tests", "model_repository"])
def test_no_module_outgrows_a_reader(folder):
    modules = sorted((ROOT / folder).rglob("*.py"))
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}

    assert lengths
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}

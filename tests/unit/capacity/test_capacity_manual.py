"""docs/capacity.md says what `make capacity` prints, as far as that is quick to print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from histgen_lib.capacity.manual import TABLES, fill, markdown
from histgen_lib.capacity.scenarios import ASSUMED, GPU_SLIDES, scale_row, things_table

PAGE = Path(__file__).parents[3] / "docs" / "capacity.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(name: str) -> str:
    found = re.search(rf"<!-- make capacity: {name} -->\n(.*?)\n<!-- end -->", TEXT, re.S)
    assert found, name
    return found[1]


def test_every_table_has_its_place_and_is_filled():
    assert re.findall(r"<!-- make capacity: ([\w-]+) -->", TEXT) != []
    assert sorted(re.findall(r"<!-- make capacity: ([\w-]+) -->", TEXT)) == sorted(TABLES)
    for name in TABLES:
        assert table(name).count("\n") >= 2, name


@pytest.mark.parametrize(
    ("gpu", "name", "slides"), [("cpu", "scale-cpu", 100), (ASSUMED, "scale-gpu", 1_000)]
)
def test_the_smallest_days_are_what_they_were(gpu, name, slides):
    assert f"| {' | '.join(scale_row(slides, gpu))} |" in table(name)


def test_storage_and_network_are_what_they_were():
    assert table("things") == markdown(things_table(GPU_SLIDES))


def test_every_picture_is_there_and_shown():
    shown = re.findall(r"\]\((capacity/[\w.-]+)\)", TEXT)

    assert sorted(shown) == sorted(f"capacity/{path.name}" for path in PAGE.with_suffix("").iterdir())


def test_a_table_is_put_between_its_comments_and_nowhere_else():
    one, two = "<!-- make capacity: one -->\n{}<!-- end -->\n", "<!-- make capacity: two -->\n{}<!-- end -->"
    page = f"a\n{one.format('old' + chr(10))}b\n{two.format('')}"

    assert fill(page, "one", "new") == f"a\n{one.format('new' + chr(10))}b\n{two.format('')}"
    assert fill(page, "two", "more") == f"a\n{one.format('old' + chr(10))}b\n{two.format('more' + chr(10))}"

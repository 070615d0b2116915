"""Writes the tables and pictures of docs/capacity.md: `python -m histgen_lib.capacity.manual PAGE`.

A table stands between two comments that name it; what is outside stays.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from histgen_lib.capacity import scenarios
from histgen_lib.capacity.scenarios import ASSUMED, CPU_SLIDES, GPU_SLIDES, Table
from histgen_lib.files import write_atomic

TABLES: dict[str, Callable[[], Table]] = {
    "scale-cpu": lambda: scenarios.scale_table("cpu", CPU_SLIDES),
    "scale-gpu": lambda: scenarios.scale_table(ASSUMED, GPU_SLIDES),
    "things": lambda: scenarios.things_table(GPU_SLIDES),
    "troubles": scenarios.trouble_table,
    "bursts": scenarios.burst_table,
    "partitions": scenarios.partition_table,
    "scale-down": scenarios.down_table,
}


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    heading, *rows = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([heading, "|" + "---|" * len(table[0]), *rows])


def fill(page: str, name: str, text: str) -> str:
    """Return the page with a table put between its two comments."""
    pattern = re.compile(rf"(<!-- make capacity: {name} -->\n).*?(<!-- end -->)", re.S)
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main(page: Path) -> None:
    """Write all tables into a page, and the pictures into the folder beside it that has its name."""
    from histgen_lib.capacity.pictures import draw_all

    text = page.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        text = fill(text, name, markdown(make()))
        sys.stderr.write(f"{name}\n")
    write_atomic(page, text.encode())
    draw_all(page.with_suffix(""))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

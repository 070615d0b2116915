"""The table that a run prints: what agrees with the CPU, and what takes how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

HEAD = ("part", "what", "size", "found", "allowed", "")
_LONGEST = 80
"""Characters of a reason in the table: one long cell would widen all rows."""


class Row(NamedTuple):
    part: str
    what: str
    size: str
    found: str
    allowed: str
    verdict: str


class Table:
    """Rows in the order in which they were found, and what was left out; `seen` gets each at once."""

    def __init__(self, seen: Callable[[str], None] = lambda _: None) -> None:
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self._seen = seen

    def agree(self, part: str, what: str, size: str, error: float, most: float) -> None:
        """Add how far a path is from the CPU's numbers, and how far it may be; NaN is too far."""
        verdict = "agrees" if error <= most else "FAILS"
        self._add(Row(part, what, size, f"{error:.2g}", f"{most:g}", verdict))

    def fail(self, part: str, what: str, why: str) -> None:
        """Add something that does not work although everything is there."""
        self._add(Row(part, what, "", " ".join(why.split())[:_LONGEST], "", "FAILS"))

    def figure(self, part: str, what: str, size: str, found: str) -> None:
        """Add what was measured."""
        self._add(Row(part, what, size, found, "", ""))

    def leave_out(self, what: str, why: str) -> None:
        """Name something that does not run here, and say why."""
        self.left_out.append(f"left out: {what} ({' '.join(why.split())})")

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self._seen(" | ".join(filter(None, row)))

    @property
    def failures(self) -> int:
        return sum(row.verdict == "FAILS" for row in self.rows)

    def lines(self) -> Iterator[str]:
        """Write the table in Markdown, in columns."""
        rows = [HEAD, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        for number, row in enumerate(rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield f"| {' | '.join(cells)} |"
            if number == 0:
                yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"

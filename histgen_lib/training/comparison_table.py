"""The comparison as a page of Markdown that one command writes anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ABSENT = "–"


@dataclass(frozen=True)
class Figure:
    """A number of one variant: value, 95 % interval (NaN: none), how many cases it rests on (0: all slides).

    A `share` is shown in per cent.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0
    share: bool = True

    def cell(self) -> str:
        """Show it: "93.3 % (85.0 to 98.3)", or – for what was not measured."""
        if math.isnan(self.value):
            return _ABSENT
        interval = "" if math.isnan(self.low) else f" ({self._plain(self.low)} to {self._plain(self.high)})"
        return f"{self._plain(self.value)}{' %' if self.share else ''}{interval}"

    def _plain(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.share else f"{value:.3f}"


@dataclass(frozen=True)
class Row:
    """One variant: its figures, size and effort.

    `origin` is config.json's "training"; `given` says that the model was there before.
    """

    variant: str
    figures: Mapping[str, Figure]
    slides: int
    parameters: int
    epochs: int | None = None
    seconds: float | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    given: bool = False


def render(rows: Sequence[Row], *, command: str, facts: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """Write the page: how it was made, the table (a column a variant), and what has to be said of it."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [
        "# Published, corrected and mean-pooled HistGen",
        "",
        "Written by `histgen compare`; do not edit. The command that wrote it:",
        "",
        "<!-- run by make comparison -->",
        "```sh",
        command,
        "```",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        *(f"- {note}" for note in [*_effort_notes(rows), *notes]),
        "",
        *_line("", [row.variant for row in rows]),
        "|---|" + "---|" * len(rows),
        *(
            line
            for name in names
            for line in _line(_label(name, rows), [_figure(row, name, rows) for row in rows])
        ),
        *_line("Parameters", [f"{row.parameters:,}" for row in rows]),
        *_line("Seed", [str(row.origin.get("seed", _ABSENT)) for row in rows]),
        *_line("Training slides", [str(row.origin.get("slides", _ABSENT)) for row in rows]),
        *_line("Epochs run", [_shown(row.epochs, str) for row in rows]),
        *_line("Training minutes", [_shown(row.seconds, lambda s: f"{s / 60:.1f}") for row in rows]),
    ]
    return "\n".join(lines) + "\n"


def to_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """Make the same JSON-ready; None stands for what was not measured."""
    return {
        row.variant: {
            "figures": {name: _numbers(figure) for name, figure in row.figures.items()},
            "slides": row.slides,
            "parameters": row.parameters,
            "epochs": row.epochs,
            "seconds": row.seconds,
            "training": dict(row.origin),
        }
        for row in rows
    }


def _line(label: str, cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join([label, *cells])} |"]


def _label(name: str, rows: Sequence[Row]) -> str:
    counts = _counts(name, rows)
    return f"{name} (n = {counts.pop()})" if len(counts) == 1 else name


def _figure(row: Row, name: str, rows: Sequence[Row]) -> str:
    """Write a cell; it says its own n where the columns' differ."""
    if name not in row.figures:
        return _ABSENT
    figure = row.figures[name]
    return figure.cell() + (f", n = {figure.count}" if len(_counts(name, rows)) > 1 else "")


def _counts(name: str, rows: Sequence[Row]) -> set[int]:
    return {row.figures[name].count for row in rows if name in row.figures} - {0}


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return _ABSENT if value is None else show(value)


def _effort_notes(rows: Sequence[Row]) -> list[str]:
    """Say so when the budgets were not the same; nobody should have to find that in the table."""
    budgets = {tuple(row.origin.get(name) for name in ("epochs", "batch_size", "slides")) for row in rows}
    given = [row.variant for row in rows if row.given]
    notes = [f"Not trained by this command but given to it: {', '.join(given)}."] if given else []
    if len(budgets) > 1:
        notes.append("The budgets (epochs, batch size, slides) are not the same for all variants.")
    return notes


def _numbers(figure: Figure) -> dict[str, Any]:
    values = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()} | {
        "count": figure.count
    }

"""What an evaluation found, and its two ways out: a dictionary for JSON, a table for CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.evaluation.bootstrap import Estimate, Floats, finite
from histgen_lib.evaluation.fields import FieldScore
from histgen_lib.evaluation.reg2025 import RegParts
from histgen_lib.files import write_atomic

SCHEMA = 1


@dataclass(frozen=True)
class EvaluationResult:
    """Scores over a set of reports.

    `metrics` maps a metric's name to its estimate, in [0, 1] except where docs/evaluation.md says otherwise.
    `cases` holds per-report scores float64[n, len(case_names)] in the order of `ids`.
    """

    ids: tuple[str, ...]
    tokenize: str
    metrics: dict[str, Estimate]
    fields: tuple[FieldScore, ...]
    parts: RegParts
    resamples: int
    seed: int
    notes: tuple[str, ...]
    case_names: tuple[str, ...]
    cases: Floats

    @property
    def pairs(self) -> int:
        """Number of reports scored."""
        return len(self.ids)

    def to_dict(self, *, with_cases: bool = False) -> dict[str, Any]:
        """JSON-ready; None stands for "not defined". The same input gives the same dictionary."""
        summary: dict[str, Any] = {
            "schema": SCHEMA,
            "pairs": self.pairs,
            "tokenize": self.tokenize,
            "metrics": {name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "fields": {field.name: field.to_dict() for field in self.fields},
            "reg2025": self.parts.to_dict(),
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "interval": 0.95},
            "notes": list(self.notes),
        }
        return summary | ({"cases": self._case_rows()} if with_cases else {})

    def to_csv(self, path: Path) -> None:
        """Write one row a metric and field: kind, name, value, low, high, references."""
        rows = [["metric", name, *_numbers(estimate), self.pairs] for name, estimate in self.metrics.items()]
        rows += [["field", f.name, *_numbers(f.accuracy), f.references] for f in self.fields]
        _write(path, ["kind", "name", "value", "low", "high", "references"], rows)

    def cases_to_csv(self, path: Path) -> None:
        """Write one row a report: its id and its own scores."""
        rows = ([name, *map(_cell, scores)] for name, scores in zip(self.ids, self.cases, strict=True))
        _write(path, ["id", *self.case_names], rows)

    def _case_rows(self) -> list[dict[str, Any]]:
        return [
            {"id": name} | {k: finite(v) for k, v in zip(self.case_names, scores, strict=True)}
            for name, scores in zip(self.ids, self.cases, strict=True)
        ]


def _numbers(estimate: Estimate) -> list[str]:
    return [_cell(value) for value in (estimate.value, estimate.low, estimate.high)]


def _cell(value: float) -> str:
    return "" if finite(value) is None else repr(float(value))


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())

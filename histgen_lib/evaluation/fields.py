"""Accuracy of each synoptic field: whether grade, diagnosis line and so on are right, word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, mean

ALL_RIGHT = "fields_all_right"
_PREFIX = "field:"


@dataclass(frozen=True)
class FieldScore:
    """Scores of one field.

    `accuracy` is the share of predictions with exactly the same value, among references that state the field.
    `wrong` predictions state another value, `missing` ones none; `spurious` ones state a field that the
    reference does not.
    """

    name: str
    references: int
    accuracy: Estimate
    wrong: int
    missing: int
    spurious: int

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        counts = {"wrong": self.wrong, "missing": self.missing, "spurious": self.spurious}
        return {"accuracy": self.accuracy.to_dict(), "references": self.references, **counts}


@dataclass(frozen=True)
class FieldTable:
    """Which fields were expected, predicted and right; bool[n, F] each, columns in the order of `names`."""

    names: tuple[str, ...]
    expected: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def statistic(self) -> Statistic:
        """Return each field's accuracy (NaN if no reference states it) and the share with all right."""
        names = [_PREFIX + name for name in self.names]
        per_field = mean(names, self.right.astype(np.float64), self.expected)
        whole = _all_right(self)
        has_fields = np.asarray(self.expected.any(axis=1)).reshape(-1, 1)
        together = mean([ALL_RIGHT], whole, has_fields)

        def compute(weights: Floats) -> Floats:
            return np.concatenate([per_field.compute(weights), together.compute(weights)], axis=1)

        return Statistic((*names, ALL_RIGHT), compute)

    def scores(self, estimates: Mapping[str, Estimate]) -> tuple[FieldScore, ...]:
        """Return the table's rows, with accuracies from `estimates` (keys as `statistic` names them)."""
        return tuple(self._score(column, name, estimates) for column, name in enumerate(self.names))

    def _score(self, column: int, name: str, estimates: Mapping[str, Estimate]) -> FieldScore:
        expected, predicted, right = (t[:, column] for t in (self.expected, self.predicted, self.right))
        return FieldScore(
            name=name,
            references=int(expected.sum()),
            accuracy=estimates[_PREFIX + name],
            wrong=int((expected & predicted & ~right).sum()),
            missing=int((expected & ~predicted).sum()),
            spurious=int((predicted & ~expected).sum()),
        )


def compare_fields(
    references: Sequence[Mapping[str, str]], predictions: Sequence[Mapping[str, str]]
) -> FieldTable:
    """Compare parsed reports (see `parse_report`) field by field; a value must be equal exactly.

    Fields come in the order in which the references, then the predictions, first state them.
    """
    names = tuple(dict.fromkeys(name for report in (*references, *predictions) for name in report))
    shape = (len(references), len(names))
    pairs = list(zip(references, predictions, strict=True))
    expected = [[bool(reference.get(name)) for name in names] for reference, _ in pairs]
    predicted = [[bool(prediction.get(name)) for name in names] for _, prediction in pairs]
    right = [[bool(r.get(name)) and r.get(name) == p.get(name) for name in names] for r, p in pairs]
    tables = (np.array(table, dtype=np.bool_).reshape(shape) for table in (expected, predicted, right))
    return FieldTable(names, *tables)


def _all_right(table: FieldTable) -> Floats:
    """Return 1 if every expected field is right and no other is predicted, else 0; float64[n, 1]."""
    right = table.right.sum(axis=1) == table.expected.sum(axis=1)
    spurious = (table.predicted & ~table.expected).any(axis=1)
    exact: Floats = (right & ~spurious).astype(np.float64)[:, None]
    return exact

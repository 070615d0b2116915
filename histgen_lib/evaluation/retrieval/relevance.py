"""What makes two cases alike for the score: equal fields of their reports, or equal labels from a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import decode_text
from histgen_lib.opening import read_ordinary
from histgen_lib.text.synoptic import field_key, parse_report

DEFAULT_FIELDS = ("organ", "diagnosis")

Label = tuple[str, ...] | None
"""What has to be equal; None: unknown, and alike to nothing."""


def field_labels(reports: Sequence[str], fields: Sequence[str] = DEFAULT_FIELDS) -> list[Label]:
    """Return each report's values of `fields`, without regard to case; None if it lacks one of them.

    Raises InvalidInputError("evaluation-relevance-unknown") if no report states them all.
    """
    keys = [field_key(field) for field in fields]
    parsed = [parse_report(report) for report in reports]
    labels = [
        tuple(found[key].casefold() for key in keys) if keys_in(found, keys) else None for found in parsed
    ]
    if not any(labels):
        raise InvalidInputError(
            "evaluation-relevance-unknown",
            f"No report states {' and '.join(fields)}.",
            hint="Name fields of the reports with --relevant-by, or give labels in a file with --labels.",
        )
    return labels


def keys_in(fields: Mapping[str, str], keys: Sequence[str]) -> bool:
    """Return whether a report states all of `keys`."""
    return bool(keys) and all(key in fields for key in keys)


def read_labels(path: Path, ids: Sequence[str]) -> list[Label]:
    """Read the labels of cases: JSON {"id": "label"}, or CSV with a header and the columns id and label.

    Raises InvalidInputError: "evaluation-labels-unreadable"; "evaluation-relevance-unknown" if it labels none
    of `ids`. A case that it does not name has no label.
    """
    try:
        text = decode_text(read_ordinary(path))
        known = _from_json(text) if path.suffix.lower() == ".json" else _from_csv(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            "evaluation-labels-unreadable",
            f"{path} cannot be read as labels ({type(error).__name__}: {error}).",
            hint='Use JSON {"id": "label", …}, or CSV with the columns id and label.',
        ) from error
    if not known.keys() & set(ids):
        raise InvalidInputError(
            "evaluation-relevance-unknown",
            f"{path} labels none of the cases.",
            hint="Its ids have to be those of the annotation.",
        )
    return [known.get(name) for name in ids]


def relevance(queries: Sequence[Label], gallery: Sequence[Label]) -> NDArray[np.bool_]:
    """Return which gallery items have the label of which query, bool[Q, G]."""
    numbers = {label: place for place, label in enumerate(dict.fromkeys([*queries, *gallery])) if label}
    rows = np.array([numbers[label] if label else -1 for label in queries])
    columns = np.array([numbers[label] if label else -2 for label in gallery])
    alike: NDArray[np.bool_] = rows[:, None] == columns[None, :]
    return alike


def _from_json(text: str) -> dict[str, Label]:
    content = json.loads(text)
    return {str(name): (str(label),) for name, label in content.items() if label not in (None, "")}


def _from_csv(text: str) -> dict[str, Label]:
    rows = csv.DictReader(io.StringIO(text))
    return {row["id"]: (row["label"],) for row in rows if row["label"]}

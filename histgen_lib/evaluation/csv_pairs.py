"""Strict reading of a CSV of predictions and references: anything unclear is an error, not a guess."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import decode_text, write_atomic
from histgen_lib.opening import read_ordinary

BlankReferences = Literal["error", "keep", "skip"]
_MAX_CELL_CHARACTERS = 2**24


@dataclass(frozen=True)
class Pair:
    """A reference report and a generated one, both verbatim."""

    id: str
    reference: str
    prediction: str


def read_pairs_csv(
    path: Path,
    *,
    prediction_column: str,
    reference_column: str,
    id_column: str | None = None,
    blank_references: BlankReferences = "error",
) -> list[Pair]:
    """Read pairs from a file with a header line, in UTF-8 or the encoding of its byte order mark.

    The separator is a comma, or the semicolon or tab that separates the header's columns (Excel's "CSV" in
    many countries, and its "Unicode text"); a first line `sep=;` names it. Unnamed columns at the end of all
    rows, and empty rows, are ignored. Cells are kept verbatim. Without `id_column`, ids are row numbers,
    from 1. A blank prediction is a pair like any other; blank references are an error, or are kept or skipped
    on request.

    Raises InvalidInputError: `evaluation-csv-missing`, `-unreadable`, `-undecodable`, `-malformed`, `-empty`,
    `-no-rows`, `-column-missing`, `evaluation-id-repeated`, `evaluation-reference-blank`.
    """
    columns = [reference_column, prediction_column, *([id_column] if id_column else [])]
    text, separator = _separator(_text(path), columns)
    rows = _rows(text, separator, path)
    header = _header(next(rows, None))
    if header is None:
        raise _bad(
            "empty", f"{path.name} is empty.", "Use a CSV file with a header line and one row per report."
        )
    if any("\0" in name for name in header):  # UTF-16 without a byte order mark reads as UTF-8 with NULs
        raise _bad(
            "undecodable", f"{path.name} is not utf-8 text (NUL).", "Save it as CSV with UTF-8 encoding."
        )
    places = [_place(header, column, path) for column in columns]
    pairs = [_pair(row, places, number) for number, row in enumerate(_checked(rows, len(header), path), 1)]
    if not pairs:
        raise _bad("no-rows", f"{path.name} has a header but no rows.", "Add one row per report.")
    _check_ids(pairs, path)
    return _without_blanks(pairs, blank_references, path)


def _text(path: Path) -> str:
    try:
        data = read_ordinary(path)
    except FileNotFoundError as error:
        raise _bad("missing", f"There is no file {path}.", "Check the path given to --csv.") from error
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}."
        raise _bad("unreadable", reason, "Use a CSV file that you have permission to read.") from error
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        reason = f"{path.name} is not {error.encoding} text (byte {error.start})."
        raise _bad("undecodable", reason, "Save it as CSV with UTF-8 encoding.") from error


def write_pairs_csv(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs for `read_pairs_csv`: columns id, reference, prediction."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([part.name for part in fields(Pair)])
    writer.writerows(astuple(pair) for pair in pairs)
    write_atomic(path, text.getvalue().encode())


def _separator(text: str, columns: Sequence[str]) -> tuple[str, str]:
    """Remove Excel's `sep=` line, and find the separator of the header's `columns`."""
    first, _, rest = text.partition("\n")
    declared = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r"), re.IGNORECASE)
    if declared:
        return rest, declared[1]
    headers = {mark: _first_row(text, mark) for mark in ",;\t"}
    named = {mark: sum(name.strip() in columns for name in header) for mark, header in headers.items()}
    return text, max(named, key=lambda mark: (named[mark], len(headers[mark])))


def _first_row(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:  # reported with its line when the rows are read
        return []


def _header(row: list[str] | None) -> list[str] | None:
    """Return the column names, stripped, without empty ones at the end."""
    names = [name.strip() for name in row or []]
    while names and not names[-1]:
        names.pop()
    return None if row is None else names


def _rows(text: str, delimiter: str, path: Path) -> Iterator[list[str]]:
    """Yield the rows that are not blank; `newline=''` keeps line breaks inside cells unchanged."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield row
    except csv.Error as error:
        reason = f"{path.name}, line {reader.line_num}: {error}."
        raise _bad("malformed", reason, "Check the quotes around the cells of that line.") from error


def _checked(rows: Iterator[list[str]], width: int, path: Path) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 1):
        if len(row) > width and not any(row[width:]):
            yield row[:width]
            continue
        if len(row) != width:
            reason = f"{path.name}, row {number} has {len(row)} cells where the header has {width}."
            raise _bad("malformed", reason, "Quote cells that contain the separator or a line break.")
        yield row


def _place(header: list[str], column: str, path: Path) -> int:
    """Find a column. The error does not quote the header: in a file without one, it is a report."""
    if header.count(column) == 1:
        return header.index(column)
    found = "no column" if column not in header else "more than one column"
    hint = "The file needs a header; name columns with --reference-column, --prediction-column, --id-column."
    raise _bad("column-missing", f"{path.name} has {found} {column!r} among {len(header)}.", hint)


def _pair(row: list[str], places: list[int], number: int) -> Pair:
    reference, prediction, *rest = (row[place] for place in places)
    return Pair(rest[0] if rest else str(number), reference, prediction)


def _check_ids(pairs: list[Pair], path: Path) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.id.strip() in seen:
            raise InvalidInputError(
                "evaluation-id-repeated",
                f"{path.name} has two rows with the id {pair.id!r}.",
                hint="Keep one row per slide, or omit --id-column.",
            )
        seen.add(pair.id.strip())


def _without_blanks(pairs: list[Pair], blank: BlankReferences, path: Path) -> list[Pair]:
    ids = [pair.id for pair in pairs if not pair.reference.strip()]
    if not ids or blank == "keep":
        return pairs
    if blank == "skip" and len(ids) < len(pairs):
        return [pair for pair in pairs if pair.reference.strip()]
    shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    raise InvalidInputError(
        "evaluation-reference-blank",
        f"{path.name} has {len(ids)} rows with a blank reference: {shown}.",
        hint="Nothing can be compared with a blank reference: fill in these rows or remove them.",
    )


def _bad(what: str, message: str, hint: str) -> InvalidInputError:
    return InvalidInputError(f"evaluation-csv-{what}", message, hint=hint)

"""Reading a CSV of predictions and references, strictly: what is not understood is an error, not a guess."""

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
    """A report as it should be and as it was generated, both as they are written."""

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
    """Read pairs from a file with a header line, in UTF-8 or as its byte order mark says.

    Cells are parted by commas, or by semicolons or tabs where the header's columns are (Excel's "CSV" of many
    countries, and its "Unicode text"); a first line `sep=;` says by what. Columns without a name at the end
    of all rows, and rows without any content, are left out. Cells are kept character by character. Without
    `id_column` the id is the row's number, from 1. A blank prediction is a pair like any other; blank
    references are an error, or are kept or skipped on request.

    Raises InvalidInputError: `evaluation-csv-missing`, `-unreadable`, `-undecodable`, `-malformed`, `-empty`,
    `-no-rows`, `-column-missing`, `evaluation-id-repeated`, `evaluation-reference-blank`.
    """
    wanted = [reference_column, prediction_column, *([id_column] if id_column else [])]
    text, separator = _separator(_text(path), wanted)
    rows = _rows(text, separator, path)
    header = _header(next(rows, None))
    if header is None:
        raise _bad(
            "empty", f"{path.name} is empty.", "Give a CSV file with a header line and one row a report."
        )
    if any("\0" in name for name in header):  # UTF-16 without its mark reads as UTF-8 with NUL between
        raise _bad(
            "undecodable", f"{path.name} is not utf-8 text (NUL).", "Save it as CSV with UTF-8 encoding."
        )
    places = [_place(header, column, path) for column in wanted]
    pairs = [_pair(row, places, number) for number, row in enumerate(_checked(rows, len(header), path), 1)]
    if not pairs:
        raise _bad("no-rows", f"{path.name} has a header but no rows.", "Add one row a report.")
    _check_ids(pairs, path)
    return _without_blanks(pairs, blank_references, path)


def _text(path: Path) -> str:
    try:
        data = read_ordinary(path)
    except FileNotFoundError as error:
        raise _bad("missing", f"There is no file {path}.", "Check the path given to --csv.") from error
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}."
        raise _bad("unreadable", reason, "Give a CSV file that you may read.") from error
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        reason = f"{path.name} is not {error.encoding} text (byte {error.start})."
        raise _bad("undecodable", reason, "Save it as CSV with UTF-8 encoding.") from error


def write_pairs_csv(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as `read_pairs_csv` reads them by itself: columns id, reference, prediction."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([part.name for part in fields(Pair)])
    writer.writerows(astuple(pair) for pair in pairs)
    write_atomic(path, text.getvalue().encode())


def _separator(text: str, wanted: Sequence[str]) -> tuple[str, str]:
    """Take Excel's `sep=` line off, and find what parts the wanted columns of the header."""
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r"), re.IGNORECASE)
    if stated:
        return rest, stated[1]
    headers = {mark: _first_row(text, mark) for mark in ",;\t"}
    named = {mark: sum(name.strip() in wanted for name in header) for mark, header in headers.items()}
    return text, max(named, key=lambda mark: (named[mark], len(headers[mark])))


def _first_row(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:  # said again, with its place, when the rows are read
        return []


def _header(row: list[str] | None) -> list[str] | None:
    """Names of the columns, without blanks around them and empty ones at the end."""
    names = [name.strip() for name in row or []]
    while names and not names[-1]:
        names.pop()
    return None if row is None else names


def _rows(text: str, delimiter: str, path: Path) -> Iterator[list[str]]:
    """Rows that are not blank; `newline=''` keeps line breaks inside cells as they are."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield row
    except csv.Error as error:
        reason = f"{path.name}, line {reader.line_num}: {error}."
        raise _bad("malformed", reason, "Check the quotes around that line's cells.") from error


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
    """Find a column; the header is not shown, for a file without one has reports there."""
    if header.count(column) == 1:
        return header.index(column)
    found = "no column" if column not in header else "more than one column"
    hint = "Name its columns by --reference-column, --prediction-column and --id-column; it needs a header."
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
                hint="Give each slide one row, or leave --id-column out.",
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
        hint="Nothing can be compared with a blank; fill these rows or take them out.",
    )


def _bad(what: str, message: str, hint: str) -> InvalidInputError:
    return InvalidInputError(f"evaluation-csv-{what}", message, hint=hint)

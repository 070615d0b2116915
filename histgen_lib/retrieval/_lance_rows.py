"""Entries as rows of a LanceDB table: one row a slide, its regions and texts in it, so never half of one.

Vectors are float16, as bytes: networks of any size share a table. The columns named `…_key` are for filters.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cache
from secrets import token_hex
from typing import Any

import numpy as np

from histgen_lib.retrieval._port import CaseEntry, Filters, Floats, Vectors
from histgen_lib.retrieval._postings import as_floats

TEXTS = (
    "slide_id", "owner", "report_digest", "model", "text", "organ", "diagnosis", "stain", "site", "date",
    "case_id",
)  # fmt: skip
KEYS = ("organ_key", "stain_key", "site_key")
FLAGS = ("signed", "synthetic")
BYTES = ("slide", "words", "regions", "boxes")
MARKS = ("revision", "build")
"""`revision`: of this very row, so that readers see what is new; `build`: of which copying it is, else ""."""

ORDER = "revision"


@cache
def schema() -> Any:
    """Return the table's Arrow schema.

    Lance takes `slide_id` for the primary key: of two writers that insert the same one at the same time, the
    second fails to commit, looks again, and updates the row of the first.
    """
    import pyarrow as pa

    key = pa.field("slide_id", pa.string(), False, {"lance-schema:unenforced-primary-key": "true"})
    strings = [pa.field(name, pa.string(), False) for name in (*TEXTS[1:], *KEYS, *MARKS)]
    flags = [pa.field(name, pa.bool_(), False) for name in FLAGS]
    whole = [pa.field("size", pa.int32(), False), pa.field("count", pa.int32(), False)]
    plain = {"lance-encoding:compression": "none"}
    vectors = [pa.field(name, pa.binary(), False, plain) for name in BYTES]
    return pa.schema([key, *strings, *flags, *whole, *vectors])


def revision() -> str:
    """Return a new revision; later ones sort later, as far as clocks agree."""
    return f"{time.time_ns():020d}-{token_hex(6)}"


def to_rows(entries: Iterable[CaseEntry], *, build: str = "") -> Any:
    """Return entries as an Arrow table; of two entries of a slide the later one."""
    import pyarrow as pa

    latest = {entry.slide_id: entry for entry in entries}
    return pa.Table.from_pylist([_row(entry, build) for entry in latest.values()], schema=schema())


def _row(entry: CaseEntry, build: str) -> dict[str, object]:
    vectors = entry.vectors
    return {
        **{name: getattr(entry, name) for name in (*TEXTS, *FLAGS)},
        "organ_key": entry.organ.casefold(),
        "stain_key": entry.stain.casefold(),
        "site_key": entry.site.casefold(),
        "revision": revision(),
        "build": build,
        "size": len(vectors.slide),
        "count": len(vectors.regions),
        "slide": vectors.slide.astype("<f2").tobytes(),
        "words": entry.words.astype("<f2").tobytes(),
        "regions": vectors.regions.astype("<f2").tobytes(),
        "boxes": vectors.boxes.astype("<i4").tobytes(),
    }


def from_rows(rows: Any) -> list[CaseEntry]:
    """Read an Arrow table of whole rows."""
    return [_entry(row) for row in newest(rows.to_pylist())]


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a slide, the latest, should a storage without conditional writes have let in two."""
    latest: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = latest.get(row["slide_id"])
        if before is None or before[ORDER] < row[ORDER]:
            latest[row["slide_id"]] = row
    return list(latest.values())


def floats(data: bytes, size: int) -> Floats:
    """Read vectors float32[n, size] from their bytes."""
    return as_floats(np.frombuffer(data, "<f2").reshape(-1, size))


def _entry(row: dict[str, Any]) -> CaseEntry:
    size = row["size"]
    vectors = Vectors(
        slide=floats(row["slide"], size)[0],
        regions=floats(row["regions"], size),
        boxes=np.frombuffer(row["boxes"], "<i4").reshape(-1, 4).astype(np.int32),
    )
    texts = {name: row[name] for name in (*TEXTS, *FLAGS)}
    return CaseEntry(**texts, vectors=vectors, words=floats(row["words"], size)[0])


def among(column: str, values: Iterable[str]) -> str:
    """Return the SQL for a column having one of these values."""
    return f"{column} IN ({', '.join(sorted(quoted(value) for value in set(values)))})"


def quoted(value: str) -> str:
    """Return a text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def where(filters: Filters, model: str) -> str:
    """Return filters as SQL."""
    terms = [f"model = {quoted(model)}"]
    for column, wanted in (
        ("organ_key", filters.organ),
        ("stain_key", filters.stain),
        ("site_key", filters.site),
    ):
        terms += [f"{column} = {quoted(wanted.casefold())}"] if wanted else []
    for flag, wanted_flag in (("signed", filters.signed), ("synthetic", filters.synthetic)):
        terms += [flag if wanted_flag else f"NOT {flag}"] if wanted_flag is not None else []
    terms += ["date <> ''"] if filters.since or filters.until else []
    terms += [f"date >= {quoted(filters.since)}"] if filters.since else []
    terms += [f"date <= {quoted(filters.until)}"] if filters.until else []
    terms += [f"NOT {among('owner', filters.without)}"] if filters.without else []
    return " AND ".join(terms)

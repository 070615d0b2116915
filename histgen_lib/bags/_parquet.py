"""Our own bag file: Parquet with columns x, y (int32, level-0 px) and features (float16, fixed-size list).

The schema metadata holds, under `histgen`, everything but the arrays as JSON, with the bag's digest; any
Parquet reader shows it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histgen_lib.bags.bag import SCHEMA_VERSION, Bag, Maker, check_size, unreadable
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import atomic_path, canonical_json

_KEY = b"histgen"
_COLUMNS = ("x", "y", "features")
_DAMAGE = (pa.ArrowException, ArithmeticError, OSError, LookupError, RecursionError, TypeError, ValueError)


def write(bag: Bag, path: Path) -> None:
    """Write the bag atomically; equal bags give equal bytes (of one Arrow version)."""
    with atomic_path(path) as temporary:
        _write(bag, temporary)


def pack(bag: Bag) -> bytes:
    """Return the bytes that `write` writes."""
    sink = pa.BufferOutputStream()
    _write(bag, sink)
    return bytes(sink.getvalue())


def read(path: Path) -> Bag:
    """Read a bag that `write` wrote, and check it against its digest."""
    return _read(path, path.name)


def unpack(data: bytes, name: str) -> Bag:
    """Read what `pack` returned, as `read`; `name` is what errors call the bag."""
    return _read(pa.BufferReader(data), name)


def read_maker(path: Path) -> Maker:
    """Return what made a bag that `write` wrote, from its metadata alone."""
    try:
        facts = json.loads(pq.read_schema(path).metadata[_KEY])
        return Maker(
            str(facts["encoder_name"]), str(facts["encoder_sha256"]), int(facts["dim"]), _settings(facts)
        )
    except _DAMAGE as error:
        raise unreadable(path.name, "it is not a bag written by histgen") from error


def _write(bag: Bag, sink: Any) -> None:
    pq.write_table(_table(bag), sink, compression="zstd", use_dictionary=False, write_statistics=False)


def _table(bag: Bag) -> pa.Table:
    facts = canonical_json({**bag.metadata(), "digest": bag.digest})
    flat = pa.array(np.ascontiguousarray(bag.features).ravel(), type=pa.float16())
    features = pa.FixedSizeListArray.from_arrays(flat, bag.features.shape[1])
    fields = [("x", pa.int32()), ("y", pa.int32()), ("features", features.type)]
    schema = pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in fields], metadata={_KEY: facts}
    )
    columns = [pa.array(bag.xy[:, 0]), pa.array(bag.xy[:, 1]), features]
    return pa.Table.from_arrays(columns, schema=schema)


def _read(source: Any, name: str) -> Bag:
    try:
        with pq.ParquetFile(source) as file:
            _check(file, name)
            table = file.read(columns=list(_COLUMNS))
        facts = json.loads(table.schema.metadata[_KEY])
        newer = facts["schema_version"] > SCHEMA_VERSION
        bag = None if newer else _bag(table, facts)
    except InvalidInputError:
        raise
    except _DAMAGE as error:
        raise unreadable(name, "it is not a bag written by histgen") from error
    if bag is None:
        raise InvalidInputError(
            "bag-schema-newer",
            f"{name} was written by a newer histgen (bag schema {facts['schema_version']}).",
            hint="Update histgen, or extract the features again.",
        )
    if bag.digest != facts.get("digest"):
        raise unreadable(name, "its content does not match its digest")
    return bag


def _check(file: pq.ParquetFile, name: str) -> None:
    """Refuse, before reading, columns of other types, which could hold anything, and too many numbers."""
    kinds = [file.schema_arrow.field(column).type for column in _COLUMNS]
    if kinds[:2] != [pa.int32()] * 2 or getattr(kinds[2], "value_type", None) != pa.float16():
        raise unreadable(name, "its columns are of other types")
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    stored = sum(group.column(part).num_values for group in groups for part in range(group.num_columns))
    rows = file.metadata.num_rows
    check_size(name, [rows, max(getattr(kinds[2], "list_size", 0), -(-stored // max(1, rows)))])


def _bag(table: pa.Table, facts: dict[str, Any]) -> Bag:
    column = table.column("features").combine_chunks()
    values = column.flatten() if isinstance(column, pa.FixedSizeListArray) else column.chunk(0).flatten()
    features = values.to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
    xy = np.stack([table.column(name).to_numpy() for name in ("x", "y")], axis=1)
    return Bag(
        slide_id=str(facts["slide_id"]),
        features=features,
        xy=xy,
        span_px=_number(facts["span_px"]),
        tile_px=int(facts["tile_px"]),
        mpp=_number(facts["mpp"]),
        slide_mpp=_number(facts["slide_mpp"]),
        slide_size=(int(facts["slide_size"][0]), int(facts["slide_size"][1])),
        encoder_name=str(facts["encoder_name"]),
        encoder_sha256=str(facts["encoder_sha256"]),
        encoder_settings=_settings(facts),
    )


def _settings(facts: dict[str, Any]) -> str:
    """Return the digest of the encoder's settings, which older bags lack."""
    return str(facts.get("encoder_settings", ""))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

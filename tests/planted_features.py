"""Feature files, annotations and tables with planted text, damaged where a parser would quote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from planted_slide import PLANTED

NAME = f"{PLANTED}^Erika"
FEATURES = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float16)
COORDS = np.array([(x * 512, y * 512) for y in range(3) for x in range(4)], np.int64)
_ATTRIBUTES = ("unit", "extractor", "encoder", "patch_size", "level0_width", "level0_magnification", NAME)


def _h5(**parts: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs[NAME] = file.attrs["patient"] = NAME
            for name, data in {"features": FEATURES, "coords": COORDS, NAME: [1], **parts}.items():
                file[name] = data
                file[name].attrs["patient"] = NAME

    return write


def _h5_attribute(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        _h5()(path)
        with h5py.File(path, "a") as file:
            file["coords"].attrs[name] = NAME

    return write


def _parquet(facts: object, columns: dict[str, object] | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pa.table(columns or {"x": [1], "y": [1], NAME: [NAME]})
        data = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        pq.write_table(table.replace_schema_metadata({b"histgen": data, NAME.encode(): NAME.encode()}), path)

    return write


def _like_ours(facts: object) -> Callable[[Path], None]:
    halves = pa.FixedSizeListArray.from_arrays(pa.array(FEATURES.ravel(), pa.float16()), 16)
    places = {name: pa.array(COORDS[:, axis].astype(np.int32)) for axis, name in enumerate("xy")}
    return _parquet(facts, {**places, "features": halves, NAME: [NAME] * 12})


def _saved(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


_FACTS = {"schema_version": 1, "slide_id": "a", "tile_px": 256, "slide_size": [0, 0], "span_px": 1}
_WORDS = np.array([(1.0,)] * 12, np.dtype([(NAME, "f4")]))
PLANTED_BAGS: dict[str, Callable[[Path], None]] = {
    "whole.h5": _h5(),
    "types.h5": _h5(features=_WORDS),
    "places.h5": _h5(coords=_WORDS),
    "words.h5": _h5(features=np.array([NAME.encode()] * 12)),
    "few.h5": _h5(coords=COORDS[:3]),
    "damaged.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + NAME.encode() * 99),
    **{f"attribute-{number}.h5": _h5_attribute(name) for number, name in enumerate(_ATTRIBUTES)},
    "columns.parquet": _parquet(_FACTS),
    "facts.parquet": _like_ours({**_FACTS, "encoder_name": NAME, NAME: NAME}),
    "version.parquet": _like_ours({**_FACTS, "schema_version": NAME}),
    "number.parquet": _like_ours({**_FACTS, "span_px": NAME}),
    "json.parquet": _like_ours(f'{{"{NAME}": {NAME}'.encode()),
    "damaged.parquet": lambda path: path.write_bytes(b"PAR1" + NAME.encode() * 99 + b"PAR1"),
    "keys.pt": _saved({NAME: torch.zeros(2)}),
    "words.pt": _saved([NAME]),
    "object.pt": _saved(Path(NAME)),
    "damaged.pt": lambda path: path.write_bytes(f"c{NAME}\n{NAME}\n.".encode()),
}

_CASE = {"id": "a", "report": NAME, "image_path": ["a.h5"], "patient": NAME}
PLANTED_ANNOTATIONS: dict[str, str] = {
    "whole": json.dumps({"train": [_CASE], "val": [{**_CASE, "id": "b"}], "test": [], "about": NAME}),
    "damaged": json.dumps({"train": [_CASE]})[:-3] + NAME,
    "no-report": json.dumps({"train": [{"id": "a", "patient": NAME}]}),
    "report-of-another-kind": json.dumps({"train": [{**_CASE, "report": [NAME]}]}),
    "case-of-another-kind": json.dumps({"train": [NAME]}),
    "split-of-another-kind": json.dumps({"train": NAME}),
    "id-of-another-kind": json.dumps({"train": [{**_CASE, "id": [NAME]}]}),
    "key-twice": f'{{"train": [{{"id": "a", "report": "x", "{NAME}": 1, "{NAME}": 2}}]}}',
    "other-split": json.dumps({NAME: [_CASE], "Train": [_CASE]}),
    "text": NAME,
}
PLANTED_TABLES: dict[str, str] = {
    "no-header": f"a,{NAME},{NAME}\nb,{NAME},{NAME}\n",
    "quotes": f'id,reference,prediction\na,"{NAME}"{NAME},"b\n',
    "cells": f"id,reference,prediction\na,{NAME},{NAME},{NAME}\n",
    "few-cells": f"id,reference,prediction\n{NAME}\n",
    "header": f"id,{NAME},prediction\na,{NAME},b\n",
}

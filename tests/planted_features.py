"""Feature files, annotations and tables with a planted text, damaged where a parser would quote it."""

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

SAID = f"{PLANTED}^Erika"
FEATURES = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float16)
COORDS = np.array([(x * 512, y * 512) for y in range(3) for x in range(4)], np.int64)
_ATTRIBUTES = ("unit", "extractor", "encoder", "patch_size", "level0_width", "level0_magnification", SAID)


def _h5(**parts: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs[SAID] = file.attrs["patient"] = SAID
            for name, data in {"features": FEATURES, "coords": COORDS, SAID: [1], **parts}.items():
                file[name] = data
                file[name].attrs["patient"] = SAID

    return write


def _h5_attribute(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        _h5()(path)
        with h5py.File(path, "a") as file:
            file["coords"].attrs[name] = SAID

    return write


def _parquet(facts: object, columns: dict[str, object] | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pa.table(columns or {"x": [1], "y": [1], SAID: [SAID]})
        data = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        pq.write_table(table.replace_schema_metadata({b"histgen": data, SAID.encode(): SAID.encode()}), path)

    return write


def _like_ours(facts: object) -> Callable[[Path], None]:
    halves = pa.FixedSizeListArray.from_arrays(pa.array(FEATURES.ravel(), pa.float16()), 16)
    places = {name: pa.array(COORDS[:, axis].astype(np.int32)) for axis, name in enumerate("xy")}
    return _parquet(facts, {**places, "features": halves, SAID: [SAID] * 12})


def _saved(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


_FACTS = {"schema_version": 1, "slide_id": "a", "tile_px": 256, "slide_size": [0, 0], "span_px": 1}
_WORDS = np.array([(1.0,)] * 12, np.dtype([(SAID, "f4")]))
PLANTED_BAGS: dict[str, Callable[[Path], None]] = {
    "whole.h5": _h5(),
    "types.h5": _h5(features=_WORDS),
    "places.h5": _h5(coords=_WORDS),
    "words.h5": _h5(features=np.array([SAID.encode()] * 12)),
    "few.h5": _h5(coords=COORDS[:3]),
    "damaged.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + SAID.encode() * 99),
    **{f"attribute-{number}.h5": _h5_attribute(name) for number, name in enumerate(_ATTRIBUTES)},
    "columns.parquet": _parquet(_FACTS),
    "facts.parquet": _like_ours({**_FACTS, "encoder_name": SAID, SAID: SAID}),
    "version.parquet": _like_ours({**_FACTS, "schema_version": SAID}),
    "number.parquet": _like_ours({**_FACTS, "span_px": SAID}),
    "json.parquet": _like_ours(f'{{"{SAID}": {SAID}'.encode()),
    "damaged.parquet": lambda path: path.write_bytes(b"PAR1" + SAID.encode() * 99 + b"PAR1"),
    "keys.pt": _saved({SAID: torch.zeros(2)}),
    "words.pt": _saved([SAID]),
    "object.pt": _saved(Path(SAID)),
    "damaged.pt": lambda path: path.write_bytes(f"c{SAID}\n{SAID}\n.".encode()),
}

_CASE = {"id": "a", "report": SAID, "image_path": ["a.h5"], "patient": SAID}
PLANTED_ANNOTATIONS: dict[str, str] = {
    "whole": json.dumps({"train": [_CASE], "val": [{**_CASE, "id": "b"}], "test": [], "about": SAID}),
    "damaged": json.dumps({"train": [_CASE]})[:-3] + SAID,
    "no-report": json.dumps({"train": [{"id": "a", "patient": SAID}]}),
    "report-of-another-kind": json.dumps({"train": [{**_CASE, "report": [SAID]}]}),
    "case-of-another-kind": json.dumps({"train": [SAID]}),
    "split-of-another-kind": json.dumps({"train": SAID}),
    "id-of-another-kind": json.dumps({"train": [{**_CASE, "id": [SAID]}]}),
    "key-twice": f'{{"train": [{{"id": "a", "report": "x", "{SAID}": 1, "{SAID}": 2}}]}}',
    "other-split": json.dumps({SAID: [_CASE], "Train": [_CASE]}),
    "text": SAID,
}
PLANTED_TABLES: dict[str, str] = {
    "no-header": f"a,{SAID},{SAID}\nb,{SAID},{SAID}\n",
    "quotes": f'id,reference,prediction\na,"{SAID}"{SAID},"b\n',
    "cells": f"id,reference,prediction\na,{SAID},{SAID},{SAID}\n",
    "few-cells": f"id,reference,prediction\n{SAID}\n",
    "header": f"id,{SAID},prediction\na,{SAID},b\n",
}

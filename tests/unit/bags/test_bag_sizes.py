"""Reading a feature file costs what it shows, not what it declares, hides or unpacks to."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bag_inputs import COORDS, FEATURES, a_bag, refusal, write_h5

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.bags.bag import as_float16

FACTS = {"patch_size": 256, "patch_size_level0": 512, "level0_width": 2048, "level0_height": 1536}


def a_parquet_bag(path):
    bag = a_bag()
    write_bag(bag, path)
    return bag


@pytest.mark.parametrize("kind", ["plain", "batch", "pt", "sparse"])
def test_features_are_converted_in_blocks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("histgen_lib.bags.bag._BLOCK_VALUES", 5 * FEATURES.shape[1])
    if kind in ("pt", "sparse"):
        path = tmp_path / "a.pt"
        tensor = torch.from_numpy(FEATURES)
        torch.save(tensor.to_sparse() if kind == "sparse" else tensor, path)
    else:
        path = write_h5(tmp_path / "a.h5", *((FEATURES[None], COORDS[None]) if kind == "batch" else ()))
    assert np.array_equal(read_bag(path).features, FEATURES.astype(np.float16))


def test_no_block_is_larger_than_the_limit(monkeypatch):
    monkeypatch.setattr("histgen_lib.bags.bag._BLOCK_VALUES", 5 * FEATURES.shape[1])
    lengths: list[int] = []

    def part(rows: slice):
        lengths.append(len(FEATURES[rows]))
        return FEATURES[rows]

    as_float16("a.h5", FEATURES.shape, part)
    assert lengths == [5, 5, 2]


def test_the_last_block_is_judged_like_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("histgen_lib.bags.bag._BLOCK_VALUES", 5 * FEATURES.shape[1])
    features = FEATURES.copy()
    features[-1, -1] = 1e6
    assert "1e+06" in refusal(write_h5(tmp_path / "a.h5", features)).message


@pytest.mark.parametrize("kind", ["h5", "pt"])
def test_more_tiles_than_any_slide_has_are_refused_however_short_their_features(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "pt":
        torch.save(torch.zeros(1, 1).expand(2_000_000, 4), path)
    else:
        with h5py.File(path, "w") as file:
            for name, width in (("features", 4), ("coords", 2)):
                file.create_dataset(
                    name, (2_000_000, width), "f8", chunks=(10_000, width), compression="gzip"
                )
    assert refusal(path).code == "bag-too-large"


def test_a_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = np.zeros((300_000, 2))
        shape = (300_000, 1024)
        file.create_dataset("features", shape, "f4", chunks=shape, compression="gzip")
    error = refusal(tmp_path / "a.h5")
    assert (error.code, "chunks" in error.message) == ("bag-unreadable", True)


@pytest.mark.parametrize(
    ("features", "coords", "words"),
    [
        (FEATURES, COORDS[:-1], "12 × 16, its coords 11 × 2"),
        (FEATURES.T, COORDS, "16 × 12, its coords 12 × 2"),
        (FEATURES, COORDS.T, "12 × 16, its coords 2 × 12"),
        (FEATURES[None], COORDS[None, :-1], "12 × 16, its coords 11 × 2"),
        (1.0, COORDS, "a single number, its coords 12 × 2"),
    ],
    ids=["one fewer", "features on their side", "coords on their side", "in a batch", "scalar"],
)
def test_arrays_that_do_not_match_are_refused_with_their_sizes(tmp_path, features, coords, words):
    error = refusal(write_h5(tmp_path / "a.h5", features, coords))
    assert error.code == "bag-invalid"
    assert words in error.message


@pytest.mark.parametrize("shift", [(4 * 512, 0), (0, 3 * 512), (-512, 0), (10**6, 10**6)])
def test_tiles_outside_their_slide_are_refused(tmp_path, shift):
    error = refusal(write_h5(tmp_path / "a.h5", coords=COORDS + shift, **FACTS))
    assert (error.code, "2048 × 1536" in error.message) == ("bag-invalid", True)


@pytest.mark.parametrize("shift", [(0, 0), (511, 511), (-511, -511)])
def test_tiles_across_the_edge_of_their_slide_are_accepted(tmp_path, shift):
    assert len(read_bag(write_h5(tmp_path / "a.h5", coords=COORDS + shift, **FACTS))) == len(COORDS)


def test_a_compressed_tensor_file_is_refused_before_reading(tmp_path):
    """A terabyte of zeros fits into a gigabyte of zip; torch would allocate all of it."""
    saved = io.BytesIO()
    torch.save(torch.from_numpy(FEATURES), saved)
    with zipfile.ZipFile(saved) as plain, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as z:
        for name in plain.namelist():
            z.writestr(name, plain.read(name))
    error = refusal(tmp_path / "a.pt")
    assert (error.code, "compressed" in error.message) == ("bag-unreadable", True)


_READ = """
import resource, sys, torch
from histgen_lib.bags import read_bag
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bag = read_bag(sys.argv[1])
print(len(bag), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_view_of_a_large_tensor_costs_only_what_it_shows(tmp_path):
    """`torch.save(large[:12])` writes all of `large`; only the view is read."""
    large = torch.ones(50_000_000)
    torch.save(large[: 12 * 16].reshape(12, 16), tmp_path / "a.pt")
    result = subprocess.run(
        [sys.executable, "-c", _READ, tmp_path / "a.pt"], check=True, capture_output=True, timeout=300
    )
    tiles, grown_kib = map(int, result.stdout.split())
    assert (tiles, result.stderr) == (12, b"")
    assert grown_kib < 100_000


def test_warnings_of_torch_about_its_own_files_are_not_shown(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.save(torch.from_numpy(FEATURES).to_sparse_csr(), tmp_path / "a.pt")
    with warnings.catch_warnings(action="error"):
        assert len(read_bag(tmp_path / "a.pt")) == len(FEATURES)


def test_booleans_are_not_features_in_either_layout(tmp_path):
    torch.save(torch.from_numpy(FEATURES) > 0, tmp_path / "a.pt")
    write_h5(tmp_path / "a.h5", FEATURES > 0)
    assert {refusal(tmp_path / f"a.{kind}").code for kind in ("pt", "h5")} == {"bag-unreadable"}


def test_other_columns_of_a_parquet_bag_are_not_read(tmp_path, monkeypatch):
    bag = a_parquet_bag(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(table.append_column("note", pa.array(["x" * 1000] * len(bag))), tmp_path / "a.parquet")
    read = pq.ParquetFile.read
    read_columns = []
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda file, columns: read_columns.append(columns) or read(file, columns=columns),
    )
    assert read_bag(tmp_path / "a.parquet") == bag
    assert read_columns == [["x", "y", "features"]]


@pytest.mark.parametrize("column", ["x", "features"])
def test_parquet_columns_of_other_types_are_refused_before_reading(tmp_path, column, monkeypatch):
    bag = a_parquet_bag(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    other = pa.array(["x"] * len(bag))
    pq.write_table(
        table.set_column(table.schema.get_field_index(column), column, other), tmp_path / "a.parquet"
    )
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("it was read"))
    assert "other types" in refusal(tmp_path / "a.parquet").message


@pytest.mark.parametrize("name", ["tile_px", "span_px", "slide_size"])
@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN"])
def test_infinite_metadata_is_damage(tmp_path, name, value):
    a_parquet_bag(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    facts = json.loads(table.schema.metadata[b"histgen"]) | {name: "@"}
    written_value = f"[{value}, {value}]" if name == "slide_size" else value
    written = json.dumps(facts).replace('"@"', written_value).encode()
    pq.write_table(table.replace_schema_metadata({b"histgen": written}), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").code in ("bag-unreadable", "bag-invalid")


def test_a_name_inside_a_file_is_made_safe_before_an_error_shows_it(tmp_path):
    """Errors go to logs and dead letters; the name in a file may be of any length and hold anything."""
    error = refusal(write_h5(tmp_path / "a.h5", FEATURES * np.nan, name="\x1b[31m" + "y" * 5000))
    assert len(error.message) < 300
    assert "\N{REPLACEMENT CHARACTER}" not in error.message


@pytest.mark.parametrize("part", ["features", "coords"])
def test_values_that_are_not_numbers_are_not_read_however_large_each_may_be(tmp_path, part):
    """Values that were never written take no room in the file, but gigabytes once they are read."""
    path = write_h5(tmp_path / "a.h5", **{part: None})
    with h5py.File(path, "a") as file:
        file.create_dataset(part, COORDS.shape, dtype="S1000000000")
        file[part if part == "coords" else "coords"].attrs["patch_size"] = 256
    assert path.stat().st_size < 1 << 20
    assert refusal(path).code == "bag-unreadable"

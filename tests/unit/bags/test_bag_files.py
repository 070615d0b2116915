"""Our own bag file: nothing is lost, equal bags give equal bytes, and damage is noticed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bag_inputs import refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histgen_lib.bags import Bag, pack_bag, read_bag, read_maker, unpack_bag, write_bag
from histgen_lib.errors import InvalidInputError, TransientError


def a_bag(tiles=50, dim=24, seed=0, **changed) -> Bag:
    rng = np.random.default_rng(seed)
    bag = Bag(
        slide_id="S-1",
        features=rng.normal(size=(tiles, dim)).astype(np.float16),
        xy=rng.integers(0, 90000, (tiles, 2)).astype(np.int32),
        span_px=513.0260521042084,
        tile_px=256,
        mpp=0.5,
        slide_mpp=0.2495,
        slide_size=(93000, 84001),
        encoder_name="synthetic-he-tiles",
        encoder_sha256="ab" * 32,
    )
    return replace(bag, **changed)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 400), st.integers(1, 70), st.integers(0, 2**32 - 1), st.text(max_size=20))
def test_every_bag_survives_writing_and_reading(tmp_path, tiles, dim, seed, name):
    bag = a_bag(tiles, dim, seed, encoder_name=name)
    write_bag(bag, tmp_path / "b.parquet")
    again = read_bag(tmp_path / "b.parquet")
    assert np.array_equal(again.features, bag.features)
    assert np.array_equal(again.xy, bag.xy)
    assert (again.features.dtype, again.xy.dtype) == (np.float16, np.int32)
    assert again.metadata() == bag.metadata()
    assert again == bag


def test_unknown_facts_stay_unknown(tmp_path):
    write_bag(a_bag(span_px=math.nan, mpp=math.nan, slide_mpp=math.nan), tmp_path / "b.parquet")
    again = read_bag(tmp_path / "b.parquet")
    assert math.isnan(again.span_px + again.mpp + again.slide_mpp)
    assert not again.has_places
    assert a_bag().has_places


def test_the_same_bag_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_bag(a_bag(), tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_layout_in_memory_does_not_matter(tmp_path):
    bag = a_bag()
    strided = replace(bag, features=np.asfortranarray(bag.features), xy=np.asfortranarray(bag.xy))
    assert strided.digest == bag.digest
    write_bag(bag, tmp_path / "a.parquet")
    write_bag(strided, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"slide_id": "S-2"},
        {"span_px": 512.0},
        {"tile_px": 224},
        {"mpp": 0.51},
        {"slide_mpp": 0.25},
        {"slide_size": (1, 1)},
        {"encoder_name": "x"},
        {"encoder_sha256": "cd" * 32},
        {"encoder_settings": "ef" * 32},
        {"features": a_bag(seed=1).features},
        {"xy": a_bag(seed=1).xy},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_the_digest_covers_everything(changed):
    assert a_bag(**changed).digest != a_bag().digest


def test_the_settings_of_the_encoder_are_kept_and_their_absence_changes_no_digest(tmp_path):
    """Bags of before settings were recorded are read, and equal what they always equalled."""
    old, new = a_bag(), a_bag(encoder_settings="ef" * 32)
    for name, bag in (("old", old), ("new", new)):
        write_bag(bag, tmp_path / f"{name}.parquet")
    facts = json.loads(pq.read_schema(tmp_path / "old.parquet").metadata[b"histgen"])
    assert "encoder_settings" not in facts
    assert facts["digest"] == "15a37c9e67eba4b3e41ef7ed7cac1e59cb444de90b462954620500f2eb770dac"
    assert read_bag(tmp_path / "old.parquet").encoder_settings == ""
    assert read_bag(tmp_path / "new.parquet").encoder_settings == "ef" * 32
    assert [read_maker(tmp_path / f"{name}.parquet").settings for name in ("old", "new")] == ["", "ef" * 32]


def test_any_parquet_reader_sees_columns_and_facts(tmp_path):
    write_bag(a_bag(), tmp_path / "b.parquet")
    schema = pq.read_schema(tmp_path / "b.parquet")
    assert schema.names == ["x", "y", "features"]
    assert schema.field("x").type == schema.field("y").type == pa.int32()
    assert schema.field("features").type == pa.list_(pa.float16(), 24)
    facts = json.loads(schema.metadata[b"histgen"])
    assert facts["schema_version"] == 1
    assert facts["digest"] == a_bag().digest
    assert (facts["tile_px"], facts["mpp"], facts["encoder_sha256"]) == (256, 0.5, "ab" * 32)
    assert pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(0).column(2).compression == "ZSTD"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": np.zeros((50, 24), np.float32)}, "float32"),
        ({"features": np.zeros((49, 24), np.float16)}, "int32[50, 2]"),
        ({"features": np.zeros(50, np.float16)}, "float16[50]"),
        ({"xy": np.zeros((50, 2))}, "float64"),
        ({"xy": np.zeros((50, 3), np.int32)}, "int32[50, 3]"),
        ({"features": np.zeros((0, 24), np.float16), "xy": np.zeros((0, 2), np.int32)}, "no features"),
        ({"features": np.full((50, 24), np.inf, np.float16)}, "not finite"),
        ({"features": np.full((50, 24), np.nan, np.float16)}, "not finite"),
    ],
)
def test_impossible_bags_cannot_be_made(changed, words):
    with pytest.raises(InvalidInputError) as caught:
        a_bag(**changed)
    assert caught.value.code == "bag-invalid"
    assert words in caught.value.message


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "b.parquet").code == "bag-missing"


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    (tmp_path / "b.npz").touch()
    error = refusal(tmp_path / "b.npz")
    assert error.code == "bag-format-unknown"
    assert all(suffix in error.hint for suffix in (".parquet", ".h5", ".pt"))


@pytest.mark.parametrize("suffix", [".parquet", ".h5", ".pt"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PAR1" * 9, b"PK\3\4" + bytes(50), b"\x89HDF\r\n\x1a\n" + bytes(90)]
)
def test_files_of_something_else(tmp_path, suffix, content):
    (tmp_path / f"b{suffix}").write_bytes(content)
    assert refusal(tmp_path / f"b{suffix}").code == "bag-unreadable"


@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_a_truncated_file(tmp_path, kept):
    write_bag(a_bag(), tmp_path / "b.parquet")
    data = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[: int(len(data) * kept)])
    assert refusal(tmp_path / "b.parquet").code == "bag-unreadable"


def test_parquet_that_is_not_a_bag(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "b.parquet")
    assert refusal(tmp_path / "b.parquet").code == "bag-unreadable"


def rewritten(path, **facts):
    """Write the bag's file again with other metadata."""
    table = pq.read_table(path)
    known = json.loads(table.schema.metadata[b"histgen"])
    pq.write_table(table.replace_schema_metadata({"histgen": json.dumps({**known, **facts})}), path)


def test_metadata_that_does_not_match_the_digest(tmp_path):
    write_bag(a_bag(), tmp_path / "b.parquet")
    rewritten(tmp_path / "b.parquet", mpp=0.25)
    error = refusal(tmp_path / "b.parquet")
    assert error.code == "bag-unreadable"
    assert "digest" in error.message


def test_a_bag_from_a_newer_version(tmp_path):
    write_bag(a_bag(), tmp_path / "b.parquet")
    rewritten(tmp_path / "b.parquet", schema_version=2)
    assert refusal(tmp_path / "b.parquet").code == "bag-schema-newer"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_bag(a_bag(), tmp_path / "b.parquet")
    before = (tmp_path / "b.parquet").read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(TransientError) as caught:
        write_bag(a_bag(seed=5), tmp_path / "b.parquet")
    assert caught.value.code == "bag-write-failed"
    assert "No space left" in caught.value.message
    assert (tmp_path / "b.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b.parquet"]


def test_a_packed_bag_is_the_file(tmp_path):
    write_bag(a_bag(), tmp_path / "b.parquet")
    data = pack_bag(a_bag())

    assert data == (tmp_path / "b.parquet").read_bytes()
    assert unpack_bag(data, "it") == a_bag()


def test_damage_to_a_packed_bag_is_noticed_and_names_the_bag():
    with pytest.raises(InvalidInputError, match="the bag of S-1 cannot be read") as caught:
        unpack_bag(pack_bag(a_bag())[:-9], "the bag of S-1")
    assert caught.value.code == "bag-unreadable"

"""Bags that should not exist: names that are paths, absurd sizes, impossible numbers and places."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bag_inputs import COORDS, FEATURES, a_bag, refusal, write_h5

from histgen_lib.bags import pack_bag, read_bag, unpack_bag, write_bag
from histgen_lib.errors import InvalidInputError

NAMES = ["..", "../../x", "/tmp/x", "..\\x", "a\x1b[2J\nb", "n" * 300]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["h5 text", "h5 bytes", "parquet"])
def test_a_name_inside_a_file_is_made_safe(tmp_path, kind, name):
    path = tmp_path / "bag.h5"
    if kind == "parquet":
        path = tmp_path / "bag.parquet"
        write_bag(a_bag(slide_id=name), path)
    else:
        write_h5(path, name=name if kind == "h5 text" else np.bytes_(name.encode()))
    found = read_bag(path).slide_id
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert 0 < len(found) <= 128
    assert not found.startswith(".")


def test_a_nul_in_an_hdf5_name_is_made_safe_too(tmp_path):
    path = write_h5(tmp_path / "bag.h5", name=np.void(b"..\0x"))
    assert read_bag(path).slide_id == "bag"


def test_a_name_that_is_not_text_is_replaced_by_the_files(tmp_path):
    assert read_bag(write_h5(tmp_path / "S 1.h5", name=7)).slide_id == "S_1"


def test_a_bag_in_our_own_store_keeps_the_id_that_its_event_states():
    assert unpack_bag(pack_bag(a_bag(slide_id="Fall 7")), "it").slide_id == "Fall 7"


@pytest.mark.parametrize("value", [65_505.0, 65_520.0, 70_000.0, -1e6, 1e300])
@pytest.mark.parametrize("kind", ["h5", "pt"])
def test_a_value_beyond_float16_is_an_error_that_names_it(tmp_path, kind, value):
    features = FEATURES.astype(np.float64)
    features[3, 5] = value
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        write_h5(path, features)
    else:
        torch.save(torch.from_numpy(features), path)
    error = refusal(path)
    assert error.code == "bag-invalid"
    assert f"{abs(value):.6g}" in error.message
    assert "65504" in error.message


def test_the_largest_value_that_fits_is_kept(tmp_path):
    features = FEATURES.copy()
    features[0, 0] = 65_504
    assert read_bag(write_h5(tmp_path / "a.h5", features)).features.max() == 65_504


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_numbers_of_any_type_are_features(tmp_path, dtype):
    features = np.abs(FEATURES * 10).astype(dtype)
    assert np.array_equal(
        read_bag(write_h5(tmp_path / "a.h5", features)).features, features.astype(np.float16)
    )


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, "S4"])
def test_values_that_are_not_numbers_are_not_features(tmp_path, dtype):
    assert refusal(write_h5(tmp_path / "a.h5", FEATURES.astype(dtype))).code == "bag-unreadable"


@pytest.mark.parametrize("place", [np.nan, np.inf, -np.inf, 2.0**31, -(2.0**40)])
def test_impossible_places_are_refused(tmp_path, place):
    coords = COORDS.astype(np.float64)
    coords[4, 1] = place
    error = refusal(write_h5(tmp_path / "a.h5", coords=coords))
    assert error.code == "bag-invalid"
    assert "coords" in error.message


def test_places_of_64_bits_do_not_wrap_around(tmp_path):
    assert refusal(write_h5(tmp_path / "a.h5", coords=COORDS + 2**32)).code == "bag-invalid"


def test_places_between_pixels_are_rounded(tmp_path):
    bag = read_bag(write_h5(tmp_path / "a.h5", coords=COORDS + 0.7))
    assert bag.xy[0].tolist() == [1, 1]
    assert bag.span_px == 512


@pytest.mark.parametrize("part", ["features", "coords"])
def test_an_hdf5_file_that_declares_terabytes_is_refused_before_reading(tmp_path, part):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, width in (("features", 1024), ("coords", 2)):
            tiles = 1 << 40 if name == part else 12
            file.create_dataset(name, (tiles, width), np.float32, chunks=(4, width))
    assert path.stat().st_size < 100_000
    assert refusal(path).code == "bag-too-large"


def test_a_small_tensor_that_expands_to_terabytes_is_refused(tmp_path):
    torch.save(torch.zeros(1, 1).expand(1 << 34, 1024), tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-too-large"


def test_a_small_parquet_file_of_very_many_features_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("histgen_lib.bags.bag._MOST_VALUES", 100)
    write_bag(a_bag(), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").code == "bag-too-large"


@pytest.mark.parametrize("link", ["external", "soft", "raw", "virtual"])
def test_an_hdf5_file_opens_no_other_file(tmp_path, link):
    """HDF5 can refer to other files in place of its arrays; nobody asked to read those."""
    other = write_h5(tmp_path / "other.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = COORDS
        if link == "external":
            file["features"] = h5py.ExternalLink(str(other), "features")
        elif link == "soft":
            file["features"] = h5py.SoftLink("/nowhere")
        elif link == "raw":
            raw = [(str(other), 0, FEATURES.nbytes)]
            file.create_dataset("features", FEATURES.shape, FEATURES.dtype, external=raw)
        else:
            layout = h5py.VirtualLayout(FEATURES.shape, FEATURES.dtype)
            layout[:] = h5py.VirtualSource(str(other), "features", FEATURES.shape)
            file.create_virtual_dataset("features", layout)
    assert refusal(tmp_path / "a.h5").code == "bag-unreadable"


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_tensor_is_read_as_dense(tmp_path, layout):
    dense = torch.from_numpy(np.where(FEATURES > 0, FEATURES, 0))
    torch.save(dense.to_sparse() if layout == "coo" else dense.to_sparse_csr(), tmp_path / "a.pt")
    assert np.array_equal(read_bag(tmp_path / "a.pt").features, dense.half().numpy())


def test_sparse_indices_that_point_outside_are_refused(tmp_path):
    bad = torch.sparse_coo_tensor([[99], [99]], [1.0], (4, 4), check_invariants=False)
    torch.save(bad, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-unreadable"


def test_a_quantised_tensor_is_read_as_its_values(tmp_path):
    steps = torch.quantize_per_tensor(torch.from_numpy(FEATURES), 0.1, 0, torch.qint8)
    torch.save(steps, tmp_path / "a.pt")
    assert np.array_equal(read_bag(tmp_path / "a.pt").features, steps.dequantize().half().numpy())


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3, 4, device="meta"), torch.zeros(3, 4, dtype=torch.complex64)],
    ids=["without content", "complex"],
)
def test_a_tensor_that_holds_no_real_numbers_is_refused(tmp_path, tensor):
    torch.save(tensor, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-unreadable"


def test_a_tensor_with_gradients_or_of_whole_numbers_is_read(tmp_path):
    torch.save(torch.nn.Parameter(torch.ones(3, 4)), tmp_path / "a.pt")
    torch.save(torch.ones(3, 4, dtype=torch.int64), tmp_path / "b.pt")
    assert np.array_equal(read_bag(tmp_path / "a.pt").features, read_bag(tmp_path / "b.pt").features)


@pytest.mark.parametrize(
    "facts",
    [
        {"span_px": 0},
        {"span_px": -512},
        {"span_px": float("inf")},
        {"slide_mpp": 0},
        {"mpp": -1},
        {"tile_px": -1},
        {"slide_size": (-4, 4)},
    ],
    ids=str,
)
def test_impossible_sizes_make_no_bag(facts):
    with pytest.raises(InvalidInputError) as caught:
        a_bag(**facts)
    assert caught.value.code == "bag-invalid"


@pytest.mark.parametrize("change", [{"slide_size": []}, {"slide_size": None}, {"span_px": "wide"}], ids=str)
def test_parquet_metadata_of_other_types_is_damage(tmp_path, change):
    write_bag(a_bag(), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    facts = json.loads(table.schema.metadata[b"histgen"]) | change
    changed = table.replace_schema_metadata({b"histgen": json.dumps(facts).encode()})
    pq.write_table(changed, tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").code == "bag-unreadable"
    assert isinstance(changed, pa.Table)


def write_stamp(path, **attributes):
    """STAMP's layout: features under another name, places in µm as floats."""
    with h5py.File(path, "w") as file:
        file["feats"], file["coords"] = FEATURES.astype(np.float16), COORDS / 2.0
        file.attrs.update({"extractor": "ctranspath", "stamp_version": "2.0.0", "unit": "um"} | attributes)
    return path


def test_stamp_gives_places_in_micrometres(tmp_path):
    bag = read_bag(write_stamp(tmp_path / "S1.h5", tile_size_um=256.0, tile_size_px=224))
    assert np.array_equal(bag.features, FEATURES.astype(np.float16))
    assert (bag.slide_id, bag.encoder_name, bag.tile_px) == ("S1", "ctranspath", 224)
    assert bag.mpp == pytest.approx(256 / 224)
    assert np.allclose(bag.xy * bag.slide_mpp, COORDS / 2.0)
    assert bag.span_px * bag.slide_mpp == 256
    assert bag.known_size is None


@pytest.mark.parametrize("unit", ["mm", "inch", "furlong"])
def test_places_in_another_unit_are_not_taken_for_micrometres(tmp_path, unit):
    """In whole µm, places in mm would all coincide."""
    error = refusal(write_stamp(tmp_path / "S1.h5", tile_size_um=256.0, unit=unit))
    assert (error.code, "unit" in error.message) == ("bag-unreadable", True)


def test_older_stamp_files_state_less(tmp_path):
    bag = read_bag(write_stamp(tmp_path / "S1.h5", tile_size=256.0))
    assert (bag.span_px, bag.slide_mpp, bag.tile_px) == (256, 1.0, 0)
    assert np.isnan(bag.mpp)


def test_half_a_slide_size_is_none(tmp_path):
    assert read_bag(write_h5(tmp_path / "a.h5", level0_width=4000)).known_size is None
    assert read_bag(write_h5(tmp_path / "b.h5", level0_width=4000, level0_height=3000)).known_size == (
        4000,
        3000,
    )

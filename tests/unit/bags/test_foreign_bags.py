"""Bags of other tools: CLAM and TRIDENT (.h5), HistGen (.pt), laid out as those tools do."""

from __future__ import annotations

import math
import sys

import bag_inputs
import numpy as np
import pytest
import torch
from bag_inputs import refusal

from histgen_lib.bags import read_bag
from histgen_lib.errors import FatalError

FEATURES = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
COORDS = np.array([(x * 512 + 37, y * 512 + 11) for y in range(5) for x in range(6)], np.int64)
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "TCGA-XX",
    "savetodir": "somewhere",
    "level0_width": 40000,
    "level0_height": 30000,
}


def write_h5(path, features=FEATURES, coords=COORDS, **attributes):
    return bag_inputs.write_h5(path, features, coords, **attributes)


@pytest.mark.parametrize("batched", [False, True])
def test_trident_states_its_tiling(tmp_path, batched):
    features, coords = (FEATURES[None], COORDS[None]) if batched else (FEATURES, COORDS)
    bag = read_bag(write_h5(tmp_path / "a.h5", features, coords, **TRIDENT))
    assert np.array_equal(bag.features, FEATURES.astype(np.float16))
    assert np.array_equal(bag.xy, COORDS)
    assert bag.xy.dtype == np.int32
    assert (bag.slide_id, bag.span_px, bag.tile_px, bag.slide_size) == ("TCGA-XX", 512, 256, (40000, 30000))
    assert (bag.mpp, bag.slide_mpp) == (0.5, 0.25)


def test_trident_writes_unknown_as_a_word(tmp_path):
    unknown = TRIDENT | {"level0_magnification": "None", "target_magnification": "None"}
    bag = read_bag(write_h5(tmp_path / "a.h5", **unknown))
    assert math.isnan(bag.mpp)
    assert math.isnan(bag.slide_mpp)


def test_clam_features_have_no_metadata_so_the_spacing_gives_the_side(tmp_path):
    bag = read_bag(write_h5(tmp_path / "a.h5"))
    assert (bag.slide_id, bag.span_px, bag.tile_px) == ("a", 512, 0)
    assert bag.has_places
    assert math.isnan(bag.mpp)


def test_clam_contours_that_start_anywhere_do_not_confuse_the_spacing(tmp_path):
    shifted = np.concatenate([COORDS, COORDS[:9] + np.array([5 * 512 + 101, 77])])
    features = np.concatenate([FEATURES, FEATURES[:9]])
    assert read_bag(write_h5(tmp_path / "a.h5", features, shifted)).span_px == 512


def test_clam_coordinates_state_level_and_size(tmp_path):
    bag = read_bag(
        write_h5(tmp_path / "a.h5", patch_size=224, patch_level=1, downsample=np.array([4.0, 4.0]))
    )
    assert (bag.span_px, bag.tile_px) == (896, 224)


def test_one_tile_has_no_spacing(tmp_path):
    bag = read_bag(write_h5(tmp_path / "a.h5", FEATURES[:1], COORDS[:1]))
    assert len(bag) == 1
    assert not bag.has_places


@pytest.mark.parametrize(
    ("features", "coords", "words"),
    [(None, COORDS, "no features"), (FEATURES, None, "no coords"), (None, None, "no features and no coords")],
)
def test_missing_parts_are_named(tmp_path, features, coords, words):
    error = refusal(write_h5(tmp_path / "a.h5", features, coords))
    assert error.code == "bag-unreadable"
    assert words in error.message


@pytest.mark.parametrize(
    ("features", "coords"),
    [
        (FEATURES, COORDS[:9]),
        (FEATURES * 1e9, COORDS),
        (FEATURES * np.nan, COORDS),
        (FEATURES[:0], COORDS[:0]),
        (FEATURES.ravel(), COORDS),
        (FEATURES, COORDS.ravel()),
    ],
    ids=["unequal", "too large", "nan", "empty", "flat features", "flat coords"],
)
def test_impossible_content_is_refused(tmp_path, features, coords):
    assert refusal(write_h5(tmp_path / "a.h5", features, coords)).code == "bag-invalid"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("batched", [False, True])
def test_a_histgen_tensor_keeps_its_order_and_has_no_places(tmp_path, dtype, batched):
    tensor = torch.from_numpy(FEATURES).to(dtype)
    torch.save(tensor[None] if batched else tensor, tmp_path / "TCGA-XX.pt")
    bag = read_bag(tmp_path / "TCGA-XX.pt")
    assert np.array_equal(bag.features, tensor.to(torch.float16).numpy())
    assert bag.slide_id == "TCGA-XX"
    assert not bag.has_places
    assert not bag.xy.any()


@pytest.mark.parametrize("thing", [{"a": 1}, [1, 2], "text", None])
def test_other_things_that_torch_saves(tmp_path, thing):
    torch.save(thing, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-unreadable"


class Trap:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (exec, ("import builtins; builtins.trap_sprung = True",))


def test_code_in_a_pt_file_is_not_run(tmp_path):
    import builtins

    torch.save(Trap(), tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-unreadable"
    assert not hasattr(builtins, "trap_sprung")


@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_impossible_tensors(tmp_path, value):
    torch.save(torch.full((3, 4), value), tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-invalid"


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_tensors_of_another_shape(tmp_path, shape):
    torch.save(torch.zeros(shape), tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").code == "bag-invalid"


def test_without_torch_the_remedy_is_named(tmp_path, monkeypatch):
    torch.save(torch.zeros(3, 4), tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FatalError) as caught:
        read_bag(tmp_path / "a.pt")
    assert caught.value.code == "bag-needs-torch"
    assert "histgen[train]" in caught.value.hint

"""`histgen report` on feature files of other tools: never outside --out, never over another's draft."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from histgen_lib.bags import read_bag
from histgen_lib.models.histgen.checkpoint import update_config

COORDS = np.array([(x * 512, y * 512) for y in range(5) for x in range(8)], np.int64)
SIZE = {"level0_width": 5000, "level0_height": 3000}


def write_h5(path: Path, seed: int = 0, width: int = 16, coords: np.ndarray = COORDS, **attributes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(seed).normal(size=(40, width)).astype(np.float32)
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    return path


@pytest.fixture
def report(histgen, model_dir, tmp_path):
    """Report bags into tmp_path/inner/out; return the exit code and the --json output."""

    def call(*bags, model=model_dir, options=()):
        code, out, _ = histgen(
            "report", *bags, "--out", tmp_path / "inner" / "out", "--model", model, *options, "--json"
        )
        return code, json.loads(out)

    return call


@pytest.mark.parametrize("name", ["..", "../../x", "/x/y", "..\\x", "a\nb", "n" * 300])
def test_no_name_inside_a_bag_leads_outside_the_results_folder(report, tmp_path, name):
    name = str(tmp_path / "absolute") if name == "/x/y" else name
    bag = write_h5(tmp_path / "bags" / "bag.h5", name=name, **SIZE)
    code, output = report(bag)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bags", "inner"]
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["out"]
    [folder] = (tmp_path / "inner" / "out").iterdir()
    assert output["drafts"][0]["files"]["json"] == str(folder / "draft.json")
    assert read_bag(folder / "bag.parquet").slide_id == folder.name


def test_two_bags_with_the_same_name_never_share_a_folder(report, tmp_path):
    bags = [write_h5(tmp_path / part / "S0.h5", seed, **SIZE) for seed, part in enumerate("ab")]
    code, output = report(*bags)
    assert code == 1
    assert [error["code"] for error in output["errors"]] == ["output-other-slide"]
    code, output = report(bags[1])  # by itself, later
    assert (code, output["errors"][0]["code"]) == (65, "output-other-slide")
    assert report(bags[0])[1]["drafts"][0]["status"] == "unchanged"
    assert report(bags[1], options=["--overwrite"])[0] == 0


def test_even_with_overwrite_two_inputs_never_share_a_folder(report, tmp_path):
    bags = [write_h5(tmp_path / f"{name}.h5", 1, name="one", **SIZE) for name in ("a", "b")]
    code, output = report(*bags, options=["--overwrite"])
    assert (code, len(output["drafts"]), output["errors"][0]["code"]) == (1, 1, "output-other-slide")


def test_names_that_become_equal_when_made_safe_do_not_share_a_folder(report, tmp_path):
    bags = [write_h5(tmp_path / f"{i}.h5", i, name=name, **SIZE) for i, name in enumerate(["a b", "a/b"])]
    code, output = report(*bags)
    assert (code, len(output["drafts"]), output["errors"][0]["code"]) == (1, 1, "output-other-slide")


@pytest.mark.parametrize(
    "attributes",
    [{}, {"level0_width": 5000}, {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0])}],
    ids=["nothing", "half a size", "level and size of tiles"],
)
def test_a_bag_without_the_slide_size_gets_a_draft_without_a_map(report, tmp_path, attributes):
    code, output = report(write_h5(tmp_path / "clam.h5", **attributes))
    assert code == 0
    record = json.loads(Path(output["drafts"][0]["files"]["json"]).read_text())
    page = Path(output["drafts"][0]["files"]["html"]).read_text()
    assert record["provenance"]["slide"]["size_px"] is None
    assert 'class="stage"' not in page
    assert "There is no map" in page


def test_tiles_that_begin_before_the_scan_are_on_the_map(report, tmp_path):
    code, output = report(write_h5(tmp_path / "edge.h5", coords=COORDS - 300, **SIZE))
    assert code == 0
    assert 'class="stage"' in Path(output["drafts"][0]["files"]["html"]).read_text()


def test_features_of_another_width_are_refused_naming_both_widths(report, tmp_path):
    code, output = report(write_h5(tmp_path / "wide.h5", width=24, **SIZE))
    assert (code, output["errors"][0]["code"]) == (65, "bag-other-encoder")
    assert "24" in output["errors"][0]["message"]
    assert "16" in output["errors"][0]["message"]


def test_an_encoder_with_another_name_is_another_encoder(report, own_model_dir, tmp_path):
    """Files of other tools state no digest, so the name decides."""
    bag = write_h5(tmp_path / "named.h5", encoder="uni_v1", **SIZE)
    assert report(bag, model=own_model_dir)[1]["errors"][0]["code"] == "bag-other-encoder"
    for file in own_model_dir.glob("tile_encoder.*"):
        file.unlink()
    update_config(own_model_dir, encoder={"name": "uni_v1", "sha256": "", "dim": 16})
    assert report(bag, model=own_model_dir)[0] == 0


def test_an_uncalibrated_model_states_no_confidence(histgen, report, own_model_dir, tmp_path):
    update_config(own_model_dir, calibration={}, abstention={})
    code, output = report(write_h5(tmp_path / "a.h5", **SIZE), model=own_model_dir)
    draft = output["drafts"][0]
    assert (code, draft["abstained"], draft["confidence"], draft["calibrated"]) == (0, False, None, False)
    record = json.loads(Path(draft["files"]["json"]).read_text())
    assert record["calibrated"] is False
    assert record["confidence"] is None
    assert {line["confidence"] for line in record["sentences"]} == {None}
    text = Path(draft["files"]["text"]).read_text()
    assert "CONFIDENCE NOT CALIBRATED" in text
    assert "Confidence not calibrated" in text
    assert "0 %" not in text
    assert "not calibrated" in Path(draft["files"]["html"]).read_text()
    more = write_h5(tmp_path / "b.h5", **SIZE), write_h5(tmp_path / "c.h5", **SIZE)
    out = histgen("report", *more, "--out", tmp_path / "x", "--model", own_model_dir)[1]
    assert "not calibrated" in out
    assert "0.00" not in out


def test_a_model_that_requires_a_confidence_but_has_none_abstains(report, own_model_dir, tmp_path):
    update_config(own_model_dir, calibration={}, abstention={"threshold": 0.5})
    draft = report(write_h5(tmp_path / "a.h5", **SIZE), model=own_model_dir)[1]["drafts"][0]
    assert (draft["abstained"], draft["confidence"]) == (True, None)
    assert "cannot state its own" in Path(draft["files"]["text"]).read_text().replace("\n", " ")


def test_the_shared_feature_files_are_drafted_inside_the_results_folder(histgen, tmp_path, shared_dir):
    cases = [
        shared_dir / "cases" / "h5-name-escapes" / "dots.h5",
        shared_dir / "cases" / "clam-h5-crash" / "clam.h5",
    ]
    assert histgen("report", *cases, "--out", tmp_path / "inner" / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "inner" / "out").iterdir()) == ["clam", "slide"]
    assert (
        sorted(path.name for path in tmp_path.rglob("*") if path.parent.name != "out")[:2]
        == ["bag.parquet"] * 2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]

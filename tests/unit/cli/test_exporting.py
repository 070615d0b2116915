"""`histgen export` and `histgen model export`, and what they say a number format costs."""

from __future__ import annotations

import json

import pytest
import tiny_model

from histgen_lib.models.folder import open_model_folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return [tiny_model.write_slide(folder / f"{seed}.tif", seed=seed) for seed in (1, 2)]


def test_an_int8_export_prints_and_stores_what_it_costs(histgen, slides, model_dir, tmp_path):
    calibrate = [part for slide in slides for part in ("--calibrate", slide)]
    options = ("--precision", "int8", "--tiles", 24)
    code, out, _ = histgen(
        "model", "export", model_dir, *options, *calibrate, "--out", tmp_path / "int8", "--json"
    )
    assert code == 0
    stated = json.loads(out)["encoder"]
    assert stated == open_model_folder(tmp_path / "int8").encoder["quantisation"]
    code, out, _ = histgen("model", "export", model_dir, *options, *calibrate, "--out", tmp_path / "text")
    assert code == 0
    assert f"cosine to float32 {stated['cosine']:.4f}" in out
    code, _, err = histgen("model", "export", model_dir, *options)
    assert (code, "error[export-int8]" in err) == (65, True)


def test_an_export_names_the_command_that_measures_its_loss(histgen, model_dir, tmp_path):
    where = ("export", model_dir, "--target", "onnxruntime", "--out")
    code, out, _ = histgen(*where, tmp_path / "half", "--precision", "float16")
    assert code == 0
    assert f"histgen evaluate --model {model_dir} --precision float16" in out
    code, out, _ = histgen(*where, tmp_path / "single", "--json")
    assert (code, json.loads(out)["loss"]) == (0, "")
    code, _, err = histgen(*where, tmp_path / "other", "--precision", "bfloat16")
    assert (code, "error[export-precision]" in err) == (65, True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_evaluated_in_the_precision_asked_for(histgen, model_dir, slide_path, tmp_path, precision):
    """On a CPU 16 bits are slow, but they are those of a GPU."""
    bags = tmp_path / "bags"
    assert histgen("encode", slide_path, "--encoder", model_dir, "--out", bags)[0] == 0
    annotation = tmp_path / "annotation.json"
    case = {"id": "sound", "image_path": ["sound.tif"], "report": tiny_model.REPORTS[0], "split": "test"}
    annotation.write_text(json.dumps({"train": [], "val": [], "test": [case]}))
    code, out, err = histgen(
        "evaluate", "--model", model_dir, "--annotation", annotation, "--bags", bags,
        "--precision", precision, "--no-meteor", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["compute"] == {"device": "cpu", "precision": precision}
    assert json.loads(out)["pairs"] == 1

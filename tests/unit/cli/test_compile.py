"""`histgen compile`, as people and scripts call it."""

from __future__ import annotations

import json
import sys

from histgen_lib.models.engines.record import EngineFiles


def test_it_compiles_a_model_where_there_is_no_gpu(histgen, own_model_dir):
    arguments = ("--target", "tensorrt-rtx", "--compute-capability", "8.9", "--tiles", "2000", "--beams", "2")
    code, out, err = histgen("compile", own_model_dir, *arguments, "--json")

    assert code == 0
    engines = {record["name"]: record for record in json.loads(out)["engines"]}
    assert list(engines) == ["tile_encoder", "histgen_encoder", "histgen_step"]
    assert all(record["capabilities"] == ["8.9"] and record["checked"] is None for record in engines.values())
    assert engines["histgen_step"]["sizes"]["beams"] == 2
    assert engines["histgen_encoder"]["profiles"][-1]["features"][2][0] == 2000
    assert "histgen_encoder: not yet checked" in err
    files = EngineFiles(own_model_dir / "engines" / "tensorrt-rtx", "histgen_step")
    assert files.read().model_dump(mode="json") == engines["histgen_step"]


def test_an_h100_is_refused_at_once(histgen, model_dir, tmp_path):
    arguments = ("--target", "tensorrt-rtx", "--compute-capability", "9.0")
    code, _, err = histgen("compile", model_dir, *arguments, "--out", tmp_path)

    assert code == 78
    assert "error[engine-capability]" in err
    assert "H100" in err
    assert "--target tensorrt on that machine" in err
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_itself_needs_its_package(histgen, model_dir, tmp_path, monkeypatch):
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = histgen("compile", model_dir, "--target", "tensorrt", "--out", tmp_path)

    assert code == 78
    assert "error[engine-package]" in err

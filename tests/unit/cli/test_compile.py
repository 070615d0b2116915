"""`histgen compile`, as people and scripts call it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from histgen_lib.export.engines import compile as compiling


@pytest.fixture
def asked(monkeypatch):
    """Note what the command asks for; nothing is compiled, as test_engine_building.py does."""
    noted = []
    monkeypatch.setattr(compiling, "compile_model", lambda *arguments: noted.append(arguments) or [])
    return noted


def test_its_options_reach_the_compiler(histgen, model_dir, tmp_path, asked):
    bag, features = tmp_path / "bag.h5", np.ones((3, 16), np.float16)
    with h5py.File(bag, "w") as file:
        file["features"], file["coords"] = features, np.arange(6).reshape(3, 2)
    gpus = ("--compute-capability", "8.9", "--compute-capability", "8.6", "--precision", "bfloat16")
    sizes = ("--tiles", "2000", "--beams", "2", "--max-tokens", "7")
    real = ("--bag", bag, "--slide", "a.svs", "--timing-cache", tmp_path / "timing")
    code, _, _ = histgen("compile", model_dir, "--target", "tensorrt-rtx", *gpus, *sizes, *real)

    assert code == 0
    [(folder, settings, _)] = asked
    assert folder == model_dir
    assert np.array_equal(settings.features, features)
    assert replace(settings, features=None) == compiling.CompileSettings(
        flavour="tensorrt-rtx",
        precision="bfloat16",
        capabilities=("8.9", "8.6"),
        beams=2,
        max_tokens=7,
        most_tiles=2000,
        slides=(Path("a.svs"),),
        timing_cache=tmp_path / "timing",
    )


def test_what_was_timed_is_kept_in_the_users_cache_folder(histgen, model_dir, tmp_path, asked, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    histgen("compile", model_dir, "--target", "tensorrt")

    assert asked[0][1].timing_cache == tmp_path / "histgen" / "tensorrt.timing"


def test_an_h100_is_refused_at_once(histgen, model_dir, tmp_path):
    arguments = ("--target", "tensorrt-rtx", "--compute-capability", "9.0")
    code, _, err = histgen("compile", model_dir, *arguments, "--out", tmp_path)

    assert code == 78
    assert "error[engine-capability]" in err
    assert "H100" in err
    assert "--target tensorrt on the machine with such a GPU" in err
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_itself_needs_its_package(histgen, model_dir, tmp_path, monkeypatch):
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = histgen("compile", model_dir, "--target", "tensorrt", "--out", tmp_path)

    assert code == 78
    assert "error[engine-package]" in err

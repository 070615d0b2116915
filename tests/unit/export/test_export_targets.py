"""A target of `histgen export` is one file, which brings its own name and summary."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_files import write_engines

from histgen_lib.errors import InvalidInputError
from histgen_lib.export.hosting import Choices
from histgen_lib.export.targets import export_to, find_target, target_summaries


def test_the_targets_are_found_with_their_summaries() -> None:
    assert set(target_summaries()) == {"local", "onnxruntime", "tensorrt", "tensorrt-rtx"}
    assert target_summaries()["local"] == "Triton's Python backend with ONNX Runtime; no GPU."


@pytest.mark.parametrize("target", target_summaries())
def test_every_target_exports_a_repository(target: str, own_model_dir: Path, tmp_path: Path) -> None:
    assert find_target(target).name == target
    assert target_summaries()[target].endswith(".")
    write_engines(own_model_dir, target)
    assert export_to(target, own_model_dir, tmp_path / "repository") == tmp_path / "repository"
    assert {path.parent.name for path in tmp_path.glob("repository/*/config.pbtxt")} >= {"histgen"}


@pytest.mark.parametrize(
    ("target", "choices", "code"),
    [
        ("local", Choices("float16"), "export-precision"),
        ("local", Choices(device="cuda"), "export-device"),
        ("onnxruntime", Choices("bfloat16"), "export-precision"),
        ("onnxruntime", Choices("float16", "cpu"), "export-precision"),
        ("onnxruntime", Choices("int8"), "export-int8"),
        ("tensorrt", Choices(device="cpu"), "export-device"),
    ],
)
def test_what_a_target_does_not_run_is_refused_before_anything_is_written(
    target: str, choices: Choices, code: str, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        export_to(target, model_dir, tmp_path / "repository", choices)
    assert caught.value.code == code
    assert not (tmp_path / "repository").exists()

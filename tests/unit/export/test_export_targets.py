"""A target of `histgen export` is one file, which brings its own name and summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.export.targets import export_to, target_summaries


def test_the_local_target_is_found_with_its_summary() -> None:
    assert target_summaries()["local"] == "Triton's Python backend with ONNX Runtime; no GPU."


@pytest.mark.parametrize("target", target_summaries())
def test_every_target_exports_a_repository(target: str, model_dir: Path, tmp_path: Path) -> None:
    assert target_summaries()[target].endswith(".")
    assert export_to(target, model_dir, tmp_path / "repository") == tmp_path / "repository"
    assert {path.parent.name for path in tmp_path.glob("repository/*/config.pbtxt")} >= {"histgen"}

"""The files of an exported GPU model are enough to answer, as the model folder on a CPU does.

A GPU in host memory stands for the real one; torch runs on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_model import compiled_tiny, fake_machine
from fake_triton import Request, exported

from histgen_lib.export.targets import export_to
from histgen_lib.inference import OnnxServer
from histgen_lib.models.engines import serving
from histgen_lib.models.folder import open_model_folder

SPAN_PX = 128


def bag(tiles: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tiles)
    cells = rng.permutation(30 * 30)[:tiles]
    xy = np.stack([cells % 30, cells // 30], axis=1).astype(np.int32) * SPAN_PX
    return {"features": rng.normal(size=(tiles, 16)).astype(np.float16), "xy": xy}


def as_sent(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put Triton's batch axis in front, as bags have it."""
    return {name: value[None] for name, value in tensors.items()}


def assert_reports_are_those_of_the_cpu(answers: Any, model: Path, tolerance: float) -> None:
    server = OnnxServer(model, threads=1)
    for answer, tiles in zip(answers, (5, 40), strict=True):
        expected = server.infer("histgen", bag(tiles))
        assert answer["tokens"][0].tolist() == expected["tokens"].tolist()
        assert np.abs(answer["evidence"][0] - expected["evidence"]).max() < tolerance


def test_engines_of_a_repository_write_the_reports_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "this_machine", lambda _flavour: fake_machine())
    repository = export_to("tensorrt", compiled_tiny(), tmp_path / "repository")
    model = exported(repository, "histgen", monkeypatch)
    digest = open_model_folder(compiled_tiny()).digest
    answers = model.execute([Request(as_sent(bag(tiles)), digest) for tiles in (5, 40)])
    model.finalize()
    assert_reports_are_those_of_the_cpu(answers, compiled_tiny(), 1e-4)


def test_weights_of_a_repository_write_the_reports_of_the_cpu(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from histgen_lib.models.histgen import torch_runner

    monkeypatch.setattr(torch_runner, "torch_device", lambda _device: torch.device("cpu"))
    repository = export_to("onnxruntime", model_dir, tmp_path / "repository")
    model = exported(repository, "histgen", monkeypatch)
    digest = open_model_folder(model_dir).digest
    answers = model.execute([Request(as_sent(bag(tiles)), digest) for tiles in (5, 40)])
    model.finalize()
    assert_reports_are_those_of_the_cpu(answers, model_dir, 1e-4)

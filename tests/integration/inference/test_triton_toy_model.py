"""A real tritonserver hosts a model that the library gained by one folder and one row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_model import build_toy_house

from histgen_lib.inference import TritonServer
from histgen_lib.stack import triton as stack_triton
from histgen_lib.stack.triton import TritonProcess


def test_triton_serves_the_toy_beside_the_others(
    tmp_path: Path,
    model_dir: Path,
    start_triton: Callable[[Path], TritonProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = build_toy_house(tmp_path, model_dir)
    served = house.serve()
    monkeypatch.setattr(stack_triton, "_SITE", house.site)
    server = start_triton(house.repository)
    assert sorted(server.models) == ["histgen", "tile_encoder", "toy"]
    with TritonServer(server.url) as client:
        numbers = np.arange(30, dtype=np.float32).reshape(10, 3)  # more rows than one request takes
        assert np.array_equal(client.infer("toy", {"numbers": numbers})["doubles"], numbers * 2)
        assert client.metadata("toy").version == served["version"]
        assert client.ready("toy")
        assert client.ready("histgen")

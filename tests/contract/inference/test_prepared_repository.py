"""What histgen-prepare-models prepares without a GPU, a real tritonserver loads, and answers right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from inference_suite import bag

from histgen_lib.inference import OnnxServer, TritonServer
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess

ROOT = Path(__file__).resolve().parents[3]
HEALTH = ROOT / "deploy" / "images" / "triton_health.py"


def test_a_real_tritonserver_answers_from_it(
    model_dir: Path, tmp_path: Path, start_triton: Callable[[Path], TritonProcess]
) -> None:
    source = f"file:{model_dir}"
    environment = {"MODELS": str(tmp_path), "HISTGEN_TARGET": "local", "HISTGEN_MODEL_SOURCE": source}
    prepare = [sys.executable, "-P", "-m", "histgen_lib.cli.prepare"]
    said = json.loads(subprocess.run(prepare, env=environment, capture_output=True, check=True).stdout)
    running = start_triton(Path(said["repository"]))
    request = bag(40, open_model_folder(model_dir).histgen.input_dim)
    here = OnnxServer(model_dir, threads=1).infer("histgen", request)
    with TritonServer(running.url) as server:
        there = server.infer("histgen", request)
    assert np.array_equal(there["tokens"], here["tokens"])
    assert there["evidence"].tobytes() == here["evidence"].tobytes()

    health = [sys.executable, "-P", HEALTH, f"unix:{running.url.removeprefix('triton://')}"]
    assert subprocess.run(health, capture_output=True, check=False).returncode == 0
    running.kill()
    ended = subprocess.run(health, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "no answer" in ended.stderr

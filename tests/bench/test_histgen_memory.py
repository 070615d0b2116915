"""What a slide of very many tiles takes: HistGen at the published size, and the shipped model.

The shipped model's regions are short (4 tiles), so that a slide has very many of them. Memory is the peak of
a process of its own, bag and interpreter included, and is asserted; time is printed only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from histgen_lib.export.cpu_files import export_cpu_graphs
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.histgen.checkpoint import new_model_folder
from histgen_lib.text.tokenizers import WordTokenizer

LIMIT_MIB = 3 * 1024

_PROGRAM = """\
import json, re, sys, time
import numpy as np
from histgen_lib.inference import OnnxServer

folder, tiles = sys.argv[1], int(sys.argv[2])
server = OnnxServer(folder)
server.load("histgen")
random = np.random.default_rng(0)
features = np.empty((tiles, server.folder.histgen.input_dim), np.float16)
for row in range(0, tiles, 1000):
    features[row : row + 1000] = random.normal(size=features[row : row + 1000].shape)
cells = np.arange(tiles)
xy = (np.stack([cells % 400, cells // 400], axis=1) * 256).astype(np.int32)
start = time.perf_counter()
found = server.infer("histgen", {"features": features, "xy": xy})
print(json.dumps({
    "seconds": time.perf_counter() - start,
    # Not getrusage: that begins with what the parent had.
    "peak_mib": int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024,
    "tokens": len(found["tokens"]),
    "tiles": found["evidence"].shape[1],
}))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model folder of the published size with random weights, whose texts do not end early."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    config = HistGenConfig(mode="published")
    new_model_folder(
        folder,
        name="published-size",
        synthetic=True,
        config=config,
        tokenizer=WordTokenizer.train(["a b"], threshold=1),
        tiling={"tile_px": 256, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15},
    )
    model = HistGen(config)
    with torch.no_grad():
        model.logit.bias[0] = -100
    export_cpu_graphs(model, folder)
    return folder


@pytest.mark.parametrize("tiles", [1, 95, 96, 4_000, 10_000, 100_000])
def test_the_published_size(published: Path, tiles: int) -> None:
    report(published, tiles)


@pytest.mark.parametrize("tiles", [10_000, 50_000, 200_000])
def test_the_shipped_model(tiles: int) -> None:
    report(SHIPPED_MODEL, tiles)


def report(model: Path, tiles: int) -> None:
    """Draft one slide in a process of its own, and print what it took."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(model), str(tiles)], check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout)
    print(f"\n{tiles} tiles: {found['seconds']:.1f} s, {found['peak_mib']:.0f} MiB, {found['tokens']} tokens")
    assert found["tiles"] == tiles
    assert found["peak_mib"] < LIMIT_MIB

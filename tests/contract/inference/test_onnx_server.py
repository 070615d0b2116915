"""ONNX Runtime in this process keeps the contract, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_suite import InferenceServerSuite
from onnx import TensorProto, helper, save

from histgen_lib.errors import FatalError
from histgen_lib.export import to_onnx
from histgen_lib.inference import OnnxServer
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.models.serving import OnnxSession
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.text.tokenizers import WordTokenizer

WIDTH = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model folder with random weights."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = HistGenConfig(
        input_dim=WIDTH,
        d_model=16,
        d_ff=16,
        d_vf=16,
        num_heads=2,
        num_layers=2,
        region_size=8,
        cmm_size=12,
        cmm_dim=16,
        topk=4,
        prototype_num=5,
        vocab_size=20,
        max_tokens=12,
    )
    new_model_folder(
        path,
        name="random",
        synthetic=True,
        config=config,
        tokenizer=WordTokenizer.train(["a b"], threshold=1),
        tiling={"tile_px": 64, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15},
        tile_encoder=TileEncoder(WIDTH, widths=(8, 8, 8)),
    )
    save_model(path, HistGen(config))
    to_onnx(path)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> OnnxServer:
    return OnnxServer(folder, threads=1)


@pytest.fixture
def width() -> int:
    return WIDTH


class TestOnnxServer(InferenceServerSuite):
    """The shared suite on `OnnxServer`."""


def test_a_folder_without_the_networks_is_not_ready_and_says_what_is_missing(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    server = OnnxServer(tmp_path)
    assert not server.ready("histgen")
    with pytest.raises(FatalError, match="no tile encoder") as caught:
        server.infer("tile_encoder", {})
    assert caught.value.code == "model-incomplete"


def test_a_damaged_network_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "histgen_step.onnx").write_bytes(b"damaged")
    with pytest.raises(FatalError) as caught:
        OnnxServer(tmp_path).infer("histgen", {})
    assert caught.value.code == "model-onnx"


def test_reports_are_written_without_torch(folder: Path) -> None:
    code = (
        "import sys, numpy as np; from histgen_lib.inference import OnnxServer\n"
        "server = OnnxServer(sys.argv[1], threads=1)\n"
        "bag = {'features': np.zeros((9, 10), np.float16), 'xy': np.zeros((9, 2), np.int32)}\n"
        "assert server.infer('histgen', bag)['score'].shape == (1,)\n"
        "assert server.infer('tile_encoder', {'tiles': np.zeros((1, 64, 64, 3), np.uint8)})\n"
        "server.folder.tokenizer.decode([1])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_a_slide_too_large_for_the_memory_is_reported_as_such(folder: Path) -> None:
    """And the next one is drafted."""
    code = (
        "import resource, sys, numpy as np; from histgen_lib.inference import OnnxServer\n"
        "from histgen_lib.errors import InvalidInputError\n"
        "bag = {'features': np.zeros((10**6, 10), np.float16), 'xy': np.zeros((10**6, 2), np.int32)}\n"
        "small = {name: value[:9] for name, value in bag.items()}\n"
        "server = OnnxServer(sys.argv[1], threads=1)\n"
        "server.infer('histgen', small)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20),) * 2)\n"
        "try:\n"
        "    server.infer('histgen', bag)\n"
        "except InvalidInputError as error:\n"
        "    print(error.code)\n"
        "assert server.infer('histgen', small)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["inference-memory"]


def test_memory_grows_with_the_number_of_tiles_and_not_with_its_square(folder: Path) -> None:
    """8,000 regions' attention to each other would take 500 MB at once; all that is kept takes 20."""
    code = (
        "import re, sys, numpy as np; from histgen_lib.inference import OnnxServer\n"
        "server = OnnxServer(sys.argv[1], threads=1)\n"
        "bag = {'features': np.zeros((56_000, 10), np.float16), 'xy': np.zeros((56_000, 2), np.int32)}\n"
        "for tiles in (9, 14_000, 56_000):\n"
        "    server.infer('histgen', {name: value[:tiles] for name, value in bag.items()})\n"
        "    print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    before, some, many = (int(peak) / 1024 for peak in run.stdout.split())
    assert many - before < 4 * (some - before) + 32


def test_a_network_without_room_says_so(tmp_path: Path) -> None:
    size = helper.make_tensor_value_info("size", TensorProto.INT64, [1])
    zeros = helper.make_tensor_value_info("zeros", TensorProto.FLOAT, None)
    node = helper.make_node("ConstantOfShape", ["size"], ["zeros"])
    graph = helper.make_graph([node], "zeros", [size], [zeros])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a")
    session = OnnxSession(tmp_path / "a", threads=1)
    assert session.run({"size": np.array([3])})["zeros"].tolist() == [0, 0, 0]
    with pytest.raises(MemoryError):
        session.run({"size": np.array([1 << 46])})

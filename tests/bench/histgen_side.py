"""One side of the comparison with the authors' HistGen, in a process of its own: ours, or theirs.

Takes a request (JSON) on standard input and prints its `Measured` as JSON. The parent sets the number of
threads in the environment, before anything is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
OPTIONS = {
    "image_dir": "features", "dropout": 0.1, "drop_prob_lm": 0.5, "logit_layers": 1, "use_bn": 0,
    "bos_idx": 0, "eos_idx": 0, "pad_idx": 0, "sample_method": "beam_search", "sample_n": 1, "group_size": 1,
    "temperature": 1.0, "output_logsoftmax": 1, "decoding_constraint": 0, "block_trigrams": 1,
}  # fmt: skip
"""The authors' options that their network reads, as in their main_test_AllinOne.py."""

TILE_PX = 512

UNREAD = re.compile(r".*\.pe|.*\.position_embeddings\.weight|.*\.layer\.1\.global_token|visual_extractor\..*")
"""Weights that the authors' forward pass computes by a formula, or never reads."""


@dataclass(frozen=True)
class Request:
    """What one process does.

    side       "ours" or "theirs"
    features   .npy file, float16|float32[N, D]
    model      ours: a model folder; theirs: a .npz of weights under the authors' names
    sizes      theirs: the authors' options for sizes
    reference  theirs: the root of their repository
    encodings, reports  how often to encode, and to write the whole report
    memory     theirs: where to write the encoder's output (.npy); "" for nowhere
    """

    side: str
    features: str
    model: str
    beams: int
    tokens: int
    sizes: dict[str, int] | None = None
    reference: str = ""
    encodings: int = 2
    reports: int = 1
    memory: str = ""


class Taken(NamedTuple):
    """Seconds by the clock, and of processor time, which other work on the machine disturbs less."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Measured:
    """What each encoding and each whole report took, the tokens, and memory in bytes.

    encodings  ours: a request for one token, so one step of the decoder is in it; theirs: the encoder alone
    reports    the first may be slower than those after it: it fills the caches
    loaded     resident memory before the first slide
    peak       the most that the process ever had
    """

    encodings: list[Taken]
    reports: list[Taken]
    tokens: list[int]
    loaded: int
    peak: int


def measure(request: Request) -> Measured:
    """Run one side in a new process, on one thread. Raises AssertionError with its last words if it fails."""
    run = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(asdict(request)),
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:] or f"killed by signal {-run.returncode}"
    found = json.loads(run.stdout.splitlines()[-1])
    found |= {what: [Taken(*taken) for taken in found[what]] for what in ("encodings", "reports")}
    return Measured(**found)


def ours(request: Request) -> Measured:
    """Measure the product: the model folder in ONNX Runtime, as a worker asks it."""
    from histgen_lib.inference import OnnxServer

    features = np.load(request.features)
    columns = int(np.ceil(np.sqrt(len(features))))
    xy = np.stack(np.divmod(np.arange(len(features)), columns), axis=1).astype(np.int32) * TILE_PX
    server = OnnxServer(request.model, threads=1)
    server.warm("histgen")

    def report(tokens: int) -> list[int]:
        settings = {"beam_size": request.beams, "max_tokens": tokens}
        found = server.infer("histgen", {"features": features, "xy": xy, **_arrays(settings)})
        return [int(token) for token in found["tokens"]]

    return _timed(request, lambda: report(1), lambda: report(request.tokens))


def theirs(request: Request) -> Measured:
    """Measure the authors' code, not a line of it changed."""
    import torch

    torch.set_num_threads(1)
    core, embed = _authors_model(request)
    features = torch.from_numpy(np.load(request.features))[None].float()

    def encode() -> Any:
        tiles = embed(features)
        return core._prepare_feature(torch.mean(tiles, dim=1), tiles, None)[2]

    def report() -> list[int]:
        tiles = embed(features)
        found, _ = core(torch.mean(tiles, dim=1), tiles, mode="sample")
        words = found[0].tolist()
        return words[: words.index(0)] if 0 in words else words

    with torch.no_grad():
        if request.memory:
            np.save(request.memory, encode()[0].numpy())
        return _timed(request, encode, report)


def _arrays(settings: dict[str, int]) -> dict[str, Any]:
    return {name: np.array([value], dtype=np.int32) for name, value in settings.items()}


def _timed(request: Request, encode: Callable[[], Any], report: Callable[[], list[int]]) -> Measured:
    loaded = _status("VmRSS")
    encodings = [_taken(encode)[0] for _ in range(request.encodings)]
    reports = [_taken(report) for _ in range(request.reports)]
    tokens = reports[-1][1]
    return Measured(encodings, [taken for taken, _ in reports], tokens, loaded, _status("VmHWM"))


def _taken(work: Callable[[], Any]) -> tuple[Taken, Any]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    found = work()
    return Taken(time.perf_counter() - wall_s, time.process_time() - cpu_s), found


def _status(name: str) -> int:
    """Read a figure of this process in bytes; ru_maxrss would start from what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _authors_model(request: Request) -> tuple[Any, Any]:
    """Build the authors' network with the weights of the request: what writes reports, and their first layer.

    Two stand-ins: their image backbone, built and never called, would load torchvision's weights; and their
    beam search moves its tokens to a GPU without asking whether there is one.
    """
    import torch

    backbone: Any = ModuleType("modules.visual_extractor")
    backbone.VisualExtractor = lambda options: torch.nn.Identity()
    sys.modules[backbone.__name__] = backbone
    torch.Tensor.cuda = lambda self, *_, **__: self
    sys.path.insert(0, request.reference)
    from models.histgen_model import HistGenModel  # type: ignore[import-not-found]

    sizes = request.sizes or {}
    words = Namespace(idx2token={number: str(number) for number in range(1, sizes["vocab_words"] + 1)})
    options = Namespace(**OPTIONS, **sizes, beam_size=request.beams, max_seq_length=request.tokens)
    model = HistGenModel(options, words).eval()
    with np.load(request.model) as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights if not UNREAD.fullmatch(name)}
    found = model.load_state_dict(state, strict=False)
    unset = [name for name in found.missing_keys if not UNREAD.fullmatch(name)]
    strangers = unset + found.unexpected_keys
    assert not strangers, f"the authors' network and these weights differ in {strangers}"
    return model.encoder_decoder, model.wsi_mapping


if __name__ == "__main__":
    asked = Request(**json.load(sys.stdin))
    print(json.dumps(asdict({"ours": ours, "theirs": theirs}[asked.side](asked))))

"""The device's graphs as ONNX Runtime computes them: on a GPU by its CUDA provider."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from gpu.bench import Bench, number
from gpu.table import milliseconds
from histgen_lib.errors import FatalError
from histgen_lib.models.devices import onnx_providers
from histgen_lib.models.histgen.on_device import BeamStep, DeviceEncoder
from histgen_lib.models.serving import OnnxSession

_PARITY = 1e-3


def run(bench: Bench) -> None:
    """Export encoder and step in float32, and compare ONNX Runtime's outputs with torch's on the CPU."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        bench.table.leave_out("ONNX Runtime", f"{' and '.join(missing)} not installed")
        return
    try:
        onnx_providers("cuda" if bench.on_gpu else "cpu")  # before the graphs are made, which takes a while
        with tempfile.TemporaryDirectory() as place:
            _compare(bench, Path(place))
    except FatalError as error:
        bench.table.leave_out("ONNX Runtime", str(error))


def _compare(bench: Bench, place: Path) -> None:
    from histgen_lib.export.engines.graphs import encoder_graph, step_graph

    sizes, device = bench.sizes, "cuda" if bench.on_gpu else "cpu"
    features, places = bench.slide(sizes.usual)
    size = f"N={number(sizes.usual)}"
    encoder = DeviceEncoder(bench.model).eval()
    inputs = {
        "features": features.astype(np.float32),
        **{k: np.array(v) for k, v in places._asdict().items()},
    }
    _, cross = encoder(*map(torch.from_numpy, inputs.values()))
    written = encoder_graph(bench.model, sizes.tiles[-1]).write(place / "encoder.onnx", "float32")
    session = OnnxSession(written, device=device)
    found = session.run(inputs)
    bench.table.agree(
        "graphs", f"ONNX Runtime on {device}: encoder", size, _apart(found["cross"], cross), _PARITY
    )
    taken = bench.seconds(lambda: session.run(inputs))
    bench.table.figure(
        "graphs", f"ONNX Runtime on {device}: encode, from host memory", size, milliseconds(taken)
    )
    step = BeamStep(bench.model, sizes.beams, sizes.words).eval()
    fed = _first_word(bench, cross)
    expected = step(*map(torch.from_numpy, fed.values()))
    graph = step_graph(bench.model, sizes.beams, sizes.words, sizes.tiles[-1])
    stepped = OnnxSession(graph.write(place / "step.onnx", "float32"), device=device).run(fed)
    error = _apart(stepped["log_probs"], expected[-1])
    bench.table.agree("graphs", f"ONNX Runtime on {device}: one step", size, error, _PARITY)


def _first_word(bench: Bench, cross: torch.Tensor) -> dict[str, np.ndarray]:
    config, beams = bench.sizes.config, bench.sizes.beams
    scores = np.full((1, beams), -np.inf, dtype=np.float32)
    scores[0, 0] = 0.0
    past = (config.num_layers, 2, 1, beams, config.num_heads, bench.sizes.words, cross.shape[-1])
    return {
        "tokens": np.zeros((1, beams), dtype=np.int64),
        "parents": np.arange(beams)[None],
        "scores": scores,
        "place": np.zeros(1, dtype=np.int64),
        "past": np.zeros(past, dtype=np.float32),
        "cross": cross.numpy(),
        "valid": np.ones((1, cross.shape[-2]), dtype=np.bool_),
    }


def _apart(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.abs(found - expected.numpy()).max())

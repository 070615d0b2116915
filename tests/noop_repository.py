"""Triton models that do nothing, at once or after a delay, to measure the stream's own time.

They take and return the tensors of a real model folder's models: features are zeros; the tokens are always
the same, or, if `timed`, the time at which the bag arrived (see `arrival_s`).
"""

from __future__ import annotations

from pathlib import Path

from histgen_lib.export.config_pbtxt import config_text
from histgen_lib.export.hosting import Hosting
from histgen_lib.inference import Tensors
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import served_model

TOKENS = (1, 2)

_MODELS = {
    "tile_encoder": """\
    def answer(self, request):
        tiles = triton.get_input_tensor_by_name(request, "tiles").as_numpy()
        return {"features": np.zeros((len(tiles), WIDTH), np.float16)}
""",
    "histgen": """\
    def answer(self, request):
        xy = triton.get_input_tensor_by_name(request, "xy").as_numpy()
        features = triton.get_input_tensor_by_name(request, "features")
        features = features or triton.get_input_tensor_by_name(request, "features_float32")
        features.as_numpy()
        arrived_ns = time.monotonic_ns()
        tiles = xy.shape[1]
        return {
            "tokens": np.array([TOKENS or divmod(arrived_ns, 1 << 31)], np.int32),
            "logprobs": np.full((1, 2), -0.01, np.float32),
            "evidence": np.full((1, 2, tiles), 1 / tiles, np.float32),
            "score": np.array([[-0.04]], np.float32),
        }
""",
}

_MODEL_PY = '''\
"""Does nothing, for {seconds} seconds."""

import time

import numpy as np
import triton_python_backend_utils as triton

WIDTH = {width}
TOKENS = {tokens}


class TritonPythonModel:
    def execute(self, requests):
        time.sleep({seconds})
        return [self.respond(request) for request in requests]

    def respond(self, request):
        return triton.InferenceResponse(
            [triton.Tensor(name, value) for name, value in self.answer(request).items()]
        )

'''


def noop_repository(
    out: Path, model_folder: Path, *, seconds: float = 0, queue: int | None = None, timed: bool = False
) -> Path:
    """Write tile_encoder/ and histgen/ into `out`; each call takes `seconds`, at most `queue` calls wait."""
    folder = open_model_folder(model_folder)
    for model, answer in _MODELS.items():
        place = out / model / "1"
        place.mkdir(parents=True, exist_ok=True)
        text = _MODEL_PY.format(
            seconds=seconds, width=folder.histgen.input_dim, tokens=() if timed else TOKENS
        )
        (place / "model.py").write_text(text + answer, encoding="utf-8")
        served = served_model(model)
        hosting = Hosting("python", lambda _: None, served.largest)
        config = config_text("local", served.metadata(folder), served.batching, hosting)
        if queue is not None:
            policy = f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {queue} }} }}"
            config = config.replace("dynamic_batching { }", policy)
        (out / model / "config.pbtxt").write_text(config, encoding="utf-8")
    return out


def arrival_s(answer: Tensors) -> float:
    """Return when, by `time.monotonic`, a `timed` histgen had received the bag it answered."""
    high, low = answer["tokens"].tolist()
    return ((high << 31) + low) / 1e9

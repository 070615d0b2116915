"""HistGen as a server hosts it: one bag of tile features in, a report's tokens with their evidence out."""

from __future__ import annotations

from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import REQUEST_SETTINGS, DecodingSettings
from histgen_lib.models.serving import Misfit, Runner, ServedFolder, ServedModel, TensorSpec

NAME = "histgen"
ENCODER_ONNX = "histgen_encoder.onnx"
DECODER_ONNX = "histgen_decoder.onnx"

_BAG = Misfit("bag-shape")
_FEATURES = Misfit("bag-shape", "Encode the slide with the tile encoder that the model was trained with.")
_SETTING = Misfit("decoding-settings")


def _inputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    """`HistGenRunner.infer` says what each tensor holds."""
    return (
        TensorSpec("features", "float16|float32", (-1, _config(folder).input_dim)),
        TensorSpec("xy", "int32", (-1, 2)),
        TensorSpec("slide", "int32", (-1,), optional=True),
        TensorSpec("span_px", "float32", (1,), optional=True),
        *(TensorSpec(name, dtype, (1,), optional=True) for name, dtype in REQUEST_SETTINGS.items()),
    )


def _outputs(_: ServedFolder) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tokens", "int32", (-1,)),
        TensorSpec("logprobs", "float32", (-1,)),
        TensorSpec("evidence", "float32", (-1, -1)),
        TensorSpec("score", "float32", (1,)),
    )


def _runner(folder: ServedFolder, threads: int | None) -> Runner:
    from histgen_lib.models.histgen.runner import HistGenRunner
    from histgen_lib.models.onnx_session import OnnxSession

    encoder = OnnxSession(folder.file(ENCODER_ONNX), threads, shrink=True)
    decoder = OnnxSession(folder.file(DECODER_ONNX), threads)
    return HistGenRunner(_config(folder), DecodingSettings(**folder.config["decoding"]), encoder, decoder)


def _config(folder: ServedFolder) -> HistGenConfig:
    return HistGenConfig.from_json(folder.config["histgen"])


MODEL = ServedModel(
    name=NAME,
    files=(ENCODER_ONNX, DECODER_ONNX),
    inputs=_inputs,
    outputs=_outputs,
    runner=_runner,
    batching="bags",
    largest=8,
    misfits={
        "features": _FEATURES,
        "xy": _BAG,
        "slide": _BAG,
        "span_px": _SETTING,
        **dict.fromkeys(REQUEST_SETTINGS, _SETTING),
    },
    cheap={"max_tokens": 1},
)

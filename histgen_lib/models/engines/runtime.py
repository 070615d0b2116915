"""What the two TensorRTs' Python modules have in common, and where they differ in running engines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.models.engines.record import ENCODER, EngineRecord, Layers

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def tensor_dtype(dtype: Any) -> str:
    """Name TensorRT's dtype as NumPy does, or "bfloat16". Raises FatalError("engine-build") for another."""
    if dtype.name not in _DTYPES:
        raise FatalError(
            "engine-build",
            f"An input or output of the engine is {dtype.name}.",
            hint=f"Export the network with {', '.join(_DTYPES.values())} at its borders.",
        )
    return _DTYPES[dtype.name]


class Messages:
    """TensorRT's errors from here on; nothing is printed.

    All of a TensorRT's builders and runtimes share the first logger that it was given, so there is one.
    """

    def __init__(self, trt: Any) -> None:
        self._kept = _kept_errors(trt)
        self.logger = self._kept.logger
        self._before = self._kept.count

    @property
    def last(self) -> str:
        """The last error, on one line; "" if there was none."""
        return " ".join(self._kept.last.split()) if self._kept.count > self._before else ""


class _KeptErrors:
    """A logger for one TensorRT, how many errors it was told, and the last of them."""

    def __init__(self, trt: Any) -> None:
        kept, self.count, self.last = self, 0, ""

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    kept.count, kept.last = kept.count + 1, message

        self.trt, self.logger = trt, Logger()


_LOGGERS: dict[int, _KeptErrors] = {}


def _kept_errors(trt: Any) -> _KeptErrors:
    if id(trt) not in _LOGGERS:
        _LOGGERS[id(trt)] = _KeptErrors(trt)
    return _LOGGERS[id(trt)]


def open_engine(trt: Any, plan: bytes, name: str) -> Any:
    """Open a compiled engine. Raises FatalError("engine-refused")."""
    messages = Messages(trt)
    runtime = trt.Runtime(messages.logger)
    engine = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
    if engine is None:
        raise FatalError(
            "engine-refused",
            f"TensorRT refuses the engine {name}: {messages.last[:300] or 'it does not say why'}",
            hint="Compile the model again on this machine. Its GPU's driver may be too old for TensorRT.",
        )
    return _Kept(engine, runtime, messages)


def check_tensors(trt: Any, engine: Any, record: EngineRecord) -> None:
    """Refuse a record by which memory would be of another size than the engine takes, or not on the GPU.

    Raises FatalError("engine-record").
    """
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    has = {
        (name, tensor_dtype(engine.get_tensor_dtype(name)))
        for name in names
        if engine.get_tensor_location(name) == trt.TensorLocation.DEVICE
    }
    differ = has ^ {(one.name, one.dtype) for one in (*record.inputs, *record.outputs)}
    if differ:
        wrong = ", ".join(sorted({name for name, _ in differ}))
        raise FatalError(
            "engine-record",
            f"{record.name}.json does not describe its engine, which has another {wrong}.",
            hint=f"Compile the model again: `histgen compile MODEL --target {record.flavour}`.",
        )


class _Kept:
    """An engine with what has to live as long as it does."""

    def __init__(self, engine: Any, *others: Any) -> None:
        self._engine, self._others = engine, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def engine_layers(trt: Any, plan: bytes) -> Layers | None:
    """Read a compiled engine's layers by kind; None if it cannot be opened here (it is for another GPU)."""
    try:
        engine = open_engine(trt, plan, "just compiled")
    except FatalError:
        return None
    found = json.loads(
        engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    )
    return Layers(source="engine", kinds=_kinds(found["Layers"]))


def _kinds(layers: Sequence[Any]) -> dict[str, int]:
    """Count layers by type; those built without details are names only."""
    kinds = Counter(one.get("LayerType", "unknown") if isinstance(one, dict) else "unknown" for one in layers)
    return dict(sorted(kinds.items()))


class RuntimeCache:
    """What TensorRT-RTX compiled for the GPU at hand when it first ran an engine, kept in a file.

    Without it every start compiles anew. TensorRT-RTX itself refuses one of another version, GPU or driver.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._known = b""

    def attach(self, config: Any) -> None:
        """Have contexts made with `config` use it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._known = self._path.read_bytes() if self._path.is_file() else b""
            if self._known and not self._cache.deserialize(self._known):
                self._known = b""
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write it if it has grown, all or nothing. A folder that takes no files costs time, nothing else."""
        if self._cache is None:
            return
        now = bytes(self._cache.serialize())
        if now != self._known:
            with suppress(OSError):
                write_atomic(self._path, now)
                self._known = now


def new_context(trt: Any, engine: Any, record: EngineRecord, cache: RuntimeCache | None) -> Any:
    """Make a context of an opened engine, without memory; None if that fails.

    By itself TensorRT would allocate what the largest slide takes, in every context.
    """
    context = engine.create_execution_context(_how(trt, engine, record, cache))
    if context is not None:
        # The engine was built to be inspected: or each start would describe all its layers to a profiler.
        context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
    return context


def _how(trt: Any, engine: Any, record: EngineRecord, cache: RuntimeCache | None) -> Any:
    """Return TensorRT-RTX's settings of a context, or the strategy for memory, all that TensorRT takes."""
    by_us = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return by_us
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(by_us)
    strategies = trt.DynamicShapesKernelSpecializationStrategy
    # Slides differ in size: kernels for each size would be compiled again and again. Batches and steps have
    # few sizes, and a CUDA graph has to record kernels that stay.
    config.dynamic_shapes_kernel_specialization_strategy = (
        strategies.NONE if record.name == ENCODER else strategies.EAGER
    )
    config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # `search` records a whole step by itself
    if cache is not None:
        cache.attach(config)
    return config

"""From an ONNX file to the bytes of an engine, with either TensorRT.

Networks are strongly typed: the graph alone says in which number format each operator computes. TensorRT 10
is asked for that, TensorRT 11 and TensorRT-RTX know nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.models.engines.device import Device
from histgen_lib.models.engines.flavours import Flavour
from histgen_lib.models.engines.record import Layers, Range, TensorFacts
from histgen_lib.models.engines.runtime import Messages, engine_layers, tensor_dtype

Profile = Mapping[str, Range]


@dataclass(frozen=True)
class Built:
    """An engine's bytes, and what they were read to be before and, where there is a GPU, after compiling."""

    plan: bytes
    version: str
    capabilities: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    profiles: tuple[dict[str, Range], ...]
    layers: Layers


def build_engine(
    flavour: Flavour,
    onnx: Path,
    profiles: Sequence[Profile],
    *,
    capabilities: Sequence[str] = (),
    device: Device | None = None,
    timing_cache: Path | None = None,
) -> Built:
    """Compile an ONNX file. `profiles`: the sizes of its inputs that the engine has to take.

    `capabilities`: of the GPUs to compile for (`Flavour.targets`), where the flavour compiles ahead; the
    other compiles for `device`, and keeps what it timed there in `timing_cache`.

    Raises FatalError: "engine-package", "engine-capability", "engine-operator" (TensorRT does not take the
    graph; names the node), "engine-build".
    """
    targets = flavour.targets(capabilities) or ((device.capability,) if device else ())
    trt = flavour.load()
    builder = _Builder(flavour, trt)
    network = builder.parse(onnx)
    config, shapes = builder.configure(network, profiles, targets if flavour.ahead else ())
    cache = _TimingCache(config, None if flavour.ahead else timing_cache)
    plan = builder.build(network, config, onnx.name)
    cache.save()
    layers = None if device is None else engine_layers(trt, plan)
    return Built(
        plan=plan,
        version=str(trt.__version__),
        capabilities=targets,
        inputs=_facts(network.get_input, network.num_inputs),
        outputs=_facts(network.get_output, network.num_outputs),
        profiles=shapes,
        layers=layers or _graph_layers(network),
    )


class _Builder:
    """TensorRT's builder, with its messages: they say what an error code does not."""

    def __init__(self, flavour: Flavour, trt: Any) -> None:
        self._flavour, self._trt = flavour, trt
        self.messages = Messages(trt)
        self._builder = trt.Builder(self.messages.logger)
        if self._builder is None:
            raise self._failed("the builder", "it did not start")

    def parse(self, onnx: Path) -> Any:
        """Read a graph. Raises FatalError("engine-operator")."""
        # TensorRT 11 ignores the flag, as strong typing is all it has.
        typed = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = self._builder.create_network(0 if typed is None else 1 << int(typed))
        self._parser = self._trt.OnnxParser(network, self.messages.logger)  # holds the graph's weights
        if not self._parser.parse_from_file(str(onnx)):
            raise self._refused(onnx.name)
        return network

    def configure(
        self, network: Any, profiles: Sequence[Profile], capabilities: Sequence[str]
    ) -> tuple[Any, tuple[dict[str, Range], ...]]:
        """Return the settings of the build, and its profiles as TensorRT has them."""
        config = self._builder.create_builder_config()
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED  # or the inspector has no layers
        if hasattr(self._trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            # A CUDA graph can record it then, and memory is what `update_device_memory_size_for_shapes` says.
            config.set_flag(self._trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            one = getattr(self._trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            config.set_compute_capability(one, place)
        return config, tuple(self._add_profile(network, config, profile) for profile in profiles)

    def _add_profile(self, network: Any, config: Any, profile: Profile) -> dict[str, Range]:
        added = self._builder.create_optimization_profile()
        for name, shapes in profile.items():
            added.set_shape(name, *shapes)
        if config.add_optimization_profile(added) < 0:
            raise self._failed("the graph", f"it does not take these sizes: {self.messages.last}")
        names = [network.get_input(place).name for place in range(network.num_inputs)]
        return {name: _read_range(added.get_shape(name)) for name in names}

    def build(self, network: Any, config: Any, name: str) -> bytes:
        """Compile. Raises FatalError("engine-build")."""
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failed(name, self.messages.last)
        return bytes(plan)

    def _refused(self, name: str) -> FatalError:
        if self._parser.num_errors == 0:
            return self._failed(name, self.messages.last)
        error = self._parser.get_error(0)
        reason = " ".join(str(error.desc()).split()) or self.messages.last
        return FatalError(
            "engine-operator",
            f"{self._flavour.title} does not take the operator {error.node_operator()} "
            f"(node {error.node_name() or error.node()} of {name}): {reason[:300]}",
            hint="Export the network without this operator, or for the target onnxruntime.",
        )

    def _failed(self, what: str, reason: str) -> FatalError:
        return FatalError(
            "engine-build",
            f"{self._flavour.title} cannot compile {what}: {reason[:300] or 'it does not say why'}",
            hint="If memory is short, compile for fewer tiles with --tiles; else try another --precision.",
        )


class _TimingCache:
    """How quick each kernel was on this very GPU, kept from build to build: the next one times less.

    TensorRT-RTX gets none: it has nothing to time, and would ask for a GPU (its "Timing Cache Migration").
    """

    def __init__(self, config: Any, path: Path | None) -> None:
        self._config, self._path = config, path
        if path is not None:
            known = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
            # One of another GPU or version is refused; an empty one never.
            if known is None or not config.set_timing_cache(known, False):
                config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """Keep what was timed, all or nothing."""
        if self._path is not None:
            write_atomic(self._path, bytes(self._config.get_timing_cache().serialize()))


def _facts(get: Any, count: int) -> tuple[TensorFacts, ...]:
    tensors = [get(place) for place in range(count)]
    return tuple(
        TensorFacts(name=one.name, dtype=tensor_dtype(one.dtype), shape=tuple(one.shape)) for one in tensors
    )


def _read_range(shapes: Any) -> Range:
    least, usual, most = (tuple(shape) for shape in shapes)
    return least, usual, most


def _graph_layers(network: Any) -> Layers:
    kinds = Counter(network.get_layer(place).type.name for place in range(network.num_layers))
    return Layers(source="graph", kinds=dict(sorted(kinds.items())))

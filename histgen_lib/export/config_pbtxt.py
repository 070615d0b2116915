"""The text of a model's config.pbtxt: its tensors, how requests are batched, what runs it and where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from histgen_lib.export.hosting import Hosting
from histgen_lib.inference.wire import BATCHING, TRITON_TYPES, VERSION, wire_names
from histgen_lib.models.serving import Batching, ModelMetadata, TensorSpec

_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}

_CONFIG = """\
# Written by `histgen export --target {target}`; change the exporter, not this.
name: "{name}"
{backend}
max_batch_size: {largest}
{inputs}
{outputs}
{batching}
instance_group [ {{ count: {instances} kind: {kind} }} ]
# The model counts as loaded once it has answered this.
model_warmup [ {{
  name: "smallest"
  batch_size: 1
{warmup}
}} ]
{parameters}
"""

_ALONE = """\
# Answers do not depend on what is put together. No queue policy: with one, tritonserver 2.51 lets about one
# request in a hundred wait for half a second.
dynamic_batching { }"""

_TOGETHER = """\
# What is put together is computed together: answers agree within the tolerance that docs/gpu.md states.
dynamic_batching {{{preferred} }}"""


def config_text(target: str, metadata: ModelMetadata, batching: Batching, hosting: Hosting) -> str:
    """Write a model's config.pbtxt."""
    own = {BATCHING: batching, VERSION: metadata.version}
    return _CONFIG.format(
        target=target,
        name=metadata.name,
        backend=_backend(hosting),
        largest=hosting.largest,
        inputs="\n".join(_inputs(metadata, batching)),
        outputs="\n".join(_outputs(metadata, batching)),
        batching=_batching(hosting),
        instances=hosting.instances,
        kind=_KINDS[hosting.device],
        warmup="\n".join(_warmup(metadata, batching)),
        parameters=_parameters(own | dict(hosting.parameters)),
    )


def _backend(hosting: Hosting) -> str:
    lines = [f"backend: {_quoted(hosting.backend)}"]
    if hosting.model_file:
        lines.append(f"default_model_filename: {_quoted(hosting.model_file)}")
    return "\n".join(lines)


def _batching(hosting: Hosting) -> str:
    if hosting.device == "cpu":
        return _ALONE
    sizes = f" preferred_batch_size: {_sizes(list(hosting.preferred))}" if hosting.preferred else ""
    return _TOGETHER.format(preferred=sizes)


def _parameters(parameters: Mapping[str, str]) -> str:
    return "\n".join(
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in parameters.items()
    )


def _inputs(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.inputs:
        names = list(wire_names(spec))
        for name, dtype in names:
            optional = " optional: true" if spec.optional or len(names) > 1 else ""
            ragged = " allow_ragged_batch: true" if batching == "bags" else ""
            yield f"input [ {{ {_tensor(name, dtype, spec, batching)}{optional}{ragged} }} ]"


def _outputs(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.outputs:
        yield f"output [ {{ {_tensor(spec.name, spec.dtype, spec, batching)} }} ]"


def _warmup(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.inputs:
        if not spec.optional:
            name, dtype = next(wire_names(spec))
            sizes = _sizes([max(size, 1) for size in _dims(spec, batching)])
            value = f"data_type: TYPE_{TRITON_TYPES[dtype]} dims: {sizes} zero_data: true"
            yield f"  inputs {{ key: {_quoted(name)} value {{ {value} }} }}"


def _tensor(name: str, dtype: str, spec: TensorSpec, batching: Batching) -> str:
    return (
        f"name: {_quoted(name)} data_type: TYPE_{TRITON_TYPES[dtype]} dims: {_sizes(_dims(spec, batching))}"
    )


def _dims(spec: TensorSpec, batching: Batching) -> list[int]:
    """Sizes of a tensor without Triton's batch axis."""
    return list(spec.shape if batching == "bags" else spec.shape[1:])


def _sizes(sizes: list[int]) -> str:
    return f"[ {', '.join(map(str, sizes))} ]"


def _quoted(text: str) -> str:
    return json.dumps(text)

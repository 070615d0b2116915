"""What is known of an engine without loading it, and the checks that keep a wrong one from being loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from histgen_lib.errors import FatalError
from histgen_lib.files import indented_json, json_digest, sha256_file, write_atomic
from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.serving import Precision, ServedFolder
from histgen_lib.models.tile_encoder.serving import QUANTISATION, TILE_ENCODER_DATA, TILE_ENCODER_ONNX

ENGINES = "engines"

TILE_ENCODER, ENCODER, STEP = "tile_encoder", "histgen_encoder", "histgen_step"
"""The engines of a model, by name."""

_WEIGHTS = {
    TILE_ENCODER: "tile_encoder.safetensors",
    ENCODER: "histgen.safetensors",
    STEP: "histgen.safetensors",
}
_SECTION = {TILE_ENCODER: "encoder", ENCODER: "histgen", STEP: "histgen"}
_AGAIN = "Compile the model again: `histgen compile MODEL --target {}`."
_FIRST = "Compile the model: `histgen compile MODEL --target {}`."
_ELSEWHERE = "Compile the model on this machine: `histgen compile MODEL --target tensorrt`."

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""Smallest, most frequent and largest shape of an input in a profile."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorFacts(_Frozen):
    """An input or output: `dtype` a NumPy name or "bfloat16", -1 in `shape` for a size that varies."""

    name: str
    dtype: str
    shape: Shape


class Layers(_Frozen):
    """The layers of an engine by kind. `source`: the engine itself, or the graph that it was compiled from.

    Without a GPU an engine cannot be opened, and the graph has to do.
    """

    source: Literal["engine", "graph"]
    kinds: dict[str, int]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.kinds.values())


class Tolerance(_Frozen):
    """How far an engine's outputs may be from ONNX Runtime's in float32 (`gate`)."""

    relative: float
    cosine: float


class Checked(_Frozen):
    """The GPU on which an engine passed the gate; its largest error there as a share of what is allowed."""

    device: str
    capability: str
    worst_output: str
    worst: float


class BatchRate(_Frozen):
    """Tiles a second, with so many tiles a batch and so many engines side by side."""

    batch: int
    instances: int
    tiles_per_s: float


class Measured(_Frozen):
    """What an engine was measured to do on the GPU that `Checked` names.

    `batch`, `instances`: the smallest of both that are within a few percent of the best rate; `rates` are all
    that were tried. `milliseconds`: time of one run by its size ("N=4000", "S=1,R=43").
    """

    batch: int = 1
    instances: int = 1
    rates: tuple[BatchRate, ...] = ()
    milliseconds: dict[str, float] = {}


class EngineRecord(_Frozen):
    """Everything that is known of an engine: `<name>.json` beside it.

    flavour, version   the TensorRT that compiled it, which alone can load it
    capabilities       compute capabilities of the GPUs it is for
    model              digest of the network it is made of (`network_digest`)
    onnx, engine, recorded   SHA-256 of the graph it was compiled from, of its bytes, of its recorded inputs
    sizes              numbers fixed in it: "beams" and "max_tokens" of a step
    checked            None: it has not yet run anywhere
    """

    schema_version: Literal[1] = 1
    name: str
    flavour: str
    version: str
    capabilities: tuple[str, ...]
    precision: Precision
    model: str
    onnx: str
    engine: str
    recorded: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    profiles: tuple[dict[str, Range], ...]
    layers: Layers
    tolerance: Tolerance
    sizes: dict[str, int] = {}
    checked: Checked | None = None
    measured: Measured | None = None


class EngineFiles:
    """The three files of one engine in a folder of engines."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.engine = folder / f"{name}.engine"
        self.record = folder / f"{name}.json"
        self.recorded = folder / f"{name}.safetensors"

    def read(self) -> EngineRecord:
        """Read the record. Raises FatalError: "engine-missing", "engine-record"."""
        missing = [path.name for path in (self.record, self.engine, self.recorded) if not path.is_file()]
        if missing:
            none_yet = not self.folder.is_dir()
            raise FatalError(
                "engine-missing",
                "The model has not been compiled for this target."
                if none_yet
                else f"There is no {', no '.join(missing)} in {self.folder}.",
                hint=(_FIRST if none_yet else _AGAIN).format(self.folder.name),
            )
        return self.read_record()

    def read_record(self) -> EngineRecord:
        """Read the record alone. Raises FatalError("engine-record")."""
        try:
            record = EngineRecord.model_validate(json.loads(self.record.read_bytes()))
            if record.name != self.name:
                raise ValueError(f"it is that of {record.name!r}")
            return record
        except (ValueError, ValidationError, OSError) as error:
            raise FatalError(
                "engine-record",
                f"{self.record.name} is no record of an engine ({str(error).splitlines()[0]}).",
                hint=_AGAIN.format(self.folder.name),
            ) from error

    def write(self, record: EngineRecord) -> None:
        """Write the record, all or nothing."""
        write_atomic(self.record, indented_json(record.model_dump(mode="json")))


def engines_folder(model: Path, flavour_name: str) -> Path:
    """Return the folder of a model's engines of a flavour."""
    return model / ENGINES / flavour_name


def is_a_graph(folder: ServedFolder) -> bool:
    """Return whether a folder's tile encoder is its ONNX file: another's, or one in int8."""
    described: Mapping[str, object] = folder.config.get("encoder") or {}
    foreign = described.get("architecture") == "onnx" or bool(described.get(QUANTISATION))
    return foreign or not (folder.path / _WEIGHTS[TILE_ENCODER]).is_file()


def network_digest(folder: ServedFolder, name: str) -> str:
    """Return the digest of what an engine is made of: a network's weights and what config.json says of it.

    The other sections of config.json (thresholds, calibration) may change without a new engine. Raises
    FatalError("model-incomplete") when the weights are missing.
    """
    section: Mapping[str, object] = folder.config.get(_SECTION[name]) or {}
    tile_px = folder.config["tiling"]["tile_px"]
    weights = sorted(sha256_file(path) for path in _weights(folder, name))
    return json_digest({"weights": weights, "network": dict(section), "tile_px": tile_px})


def _weights(folder: ServedFolder, name: str) -> list[Path]:
    if name == TILE_ENCODER and is_a_graph(folder):
        beside = folder.path / TILE_ENCODER_DATA
        return [folder.file(TILE_ENCODER_ONNX), *([beside] if beside.is_file() else [])]
    return [folder.file(_WEIGHTS[name])]


def check_record(
    record: EngineRecord, files: EngineFiles, *, version: str, capability: str, model: str
) -> None:
    """Refuse an engine that TensorRT must not see, before it does.

    `version`: that of the TensorRT at hand; `capability` of the GPU at hand; `model`: the network's digest.
    Raises FatalError: "engine-version", "engine-hardware", and as `check_content`.
    """
    made_by, hint = flavour(record.flavour), _AGAIN.format(record.flavour)
    takes = made_by.capabilities or (capability,)
    if record.version != version:
        raise FatalError(
            "engine-version",
            f"{files.engine.name} was compiled by {made_by.title} {record.version}; this is {version}.",
            hint=hint,
        )
    if capability not in record.capabilities:
        raise FatalError(
            "engine-hardware",
            f"{files.engine.name} is for GPUs of compute capability {', '.join(record.capabilities)}; "
            f"this one has {capability}.",
            hint=hint if capability in takes else _ELSEWHERE,
        )
    check_content(record, files, model)


def check_content(record: EngineRecord, files: EngineFiles, model: str) -> None:
    """Refuse an engine of another network, and damaged files; `model` as for `check_record`.

    Raises FatalError: "engine-model", "engine-corrupt".
    """
    hint = _AGAIN.format(record.flavour)
    if record.model != model:
        raise FatalError(
            "engine-model", f"{files.engine.name} was compiled from another model than this.", hint=hint
        )
    for path, digest in ((files.engine, record.engine), (files.recorded, record.recorded)):
        if sha256_file(path) != digest:
            raise FatalError(
                "engine-corrupt",
                f"{path.name} is damaged, or of another engine: its SHA-256 is not the recorded one.",
                hint=hint,
            )

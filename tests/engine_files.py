"""Files of compiled engines as `histgen compile` leaves them, without having compiled anything."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.files import sha256_file
from histgen_lib.models.engines.record import (
    BatchRate,
    Checked,
    EngineFiles,
    EngineRecord,
    Layers,
    Measured,
    Range,
    TensorFacts,
    Tolerance,
    engines_folder,
    network_digest,
)
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import Precision

MEASURED = Measured(batch=96, instances=2, rates=(BatchRate(batch=96, instances=2, tiles_per_s=1000.0),))
_LEADS = {"tile_encoder": ("tiles", (256, 64, 64, 3)), "histgen_step": ("tokens", (8, 3))}


def write_engines(
    model: Path,
    flavour: str,
    *,
    precision: Precision = "float16",
    checked: bool = True,
    measured: Measured | None = MEASURED,
) -> None:
    """Write an engine of each network into a model folder, with records that fit it."""
    for name in ("tile_encoder", "histgen_encoder", "histgen_step"):
        files = EngineFiles(engines_folder(model, flavour), name)
        files.folder.mkdir(parents=True, exist_ok=True)
        files.engine.write_bytes(f"the engine {name}".encode())
        files.recorded.write_bytes(f"recorded by {name}".encode())
        files.write(_record(model, flavour, files, precision, checked, measured))


def _record(
    model: Path,
    flavour: str,
    files: EngineFiles,
    precision: Precision,
    checked: bool,
    measured: Measured | None,
) -> EngineRecord:
    name = files.name
    lead, most = _LEADS.get(name, ("features", (100_000, 16)))
    profile: dict[str, Range] = {lead: ((1, *most[1:]), most, most)}
    outputs = (TensorFacts(name="features", dtype="float32", shape=(-1, 16)),)
    return EngineRecord(
        name=name,
        flavour=flavour,
        version="10.6.0",
        capabilities=("9.0",),
        precision=precision,
        model=network_digest(open_model_folder(model), name),
        onnx="0" * 64,
        engine=sha256_file(files.engine),
        recorded=sha256_file(files.recorded),
        inputs=(),
        outputs=outputs if name == "tile_encoder" else (),
        profiles=(profile,),
        layers=Layers(source="engine", kinds={}),
        tolerance=Tolerance(relative=1e-2, cosine=0.999),
        checked=Checked(device="H100", capability="9.0", worst_output="features", worst=0.1)
        if checked
        else None,
        measured=measured if checked else None,
    )

"""Models on compiled engines: checked before they are exported, hosted as they were measured to run best."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export.hosting import INT8, Hosting, Order
from histgen_lib.export.python_models import python_hosting
from histgen_lib.files import sha256_file
from histgen_lib.inference.wire import ENGINES, NETWORKS, PRECISION
from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.engines.record import (
    EngineFiles,
    EngineRecord,
    Measured,
    engines_folder,
    network_digest,
)

PLAN = "model.plan"
"""What Triton's TensorRT backend loads."""
_COMPILE = "Compile the model on the machine with the GPU: `histgen compile {} --target {}`."


def plan_hosting(order: Order, flavour_name: str) -> Hosting:
    """Host a model that is one engine by Triton's TensorRT backend, which trusts it.

    So it has to have passed the numerical gate: raises FatalError as `_engines`, and "export-unchecked".
    """
    [(files, record)] = _engines(order, flavour_name)
    if record.checked is None:
        raise FatalError(
            "export-unchecked",
            f"{files.engine.name} has not yet computed what ONNX Runtime computes, on any GPU.",
            hint=_hint(order, flavour_name),
        )
    measured = record.measured or Measured()
    return Hosting(
        "tensorrt",
        partial(_write_plan, files),
        _largest([record], order.model.largest),
        "cuda",
        measured.instances,
        preferred=(measured.batch,) if record.measured else (),
        parameters={PRECISION: record.precision},
        model_file=PLAN,
        dtypes={one.name: one.dtype for one in record.outputs},
    )


def engine_hosting(order: Order, flavour_name: str) -> Hosting:
    """Host a model by the Python backend, which drives its engines; raises as `_engines`."""
    engines = _engines(order, flavour_name)
    records = [record for _, record in engines]
    measured = [record.measured for record in records if record.measured]
    paths = (path for files, _ in engines for path in (files.engine, files.record, files.recorded))
    hosting = python_hosting(
        order,
        [str(path.relative_to(order.folder.path)) for path in paths],
        parameters={
            ENGINES: flavour_name,
            NETWORKS: json.dumps({record.name: record.model for record in records}),
            PRECISION: records[0].precision,
        },
    )
    return replace(
        hosting,
        largest=_largest(records, order.model.largest),
        instances=max((one.instances for one in measured), default=1),
    )


def _engines(order: Order, flavour_name: str) -> list[tuple[EngineFiles, EngineRecord]]:
    """Read and check the engines of a model.

    Raises FatalError: "engine-missing", "engine-record", "engine-model", "engine-corrupt";
    InvalidInputError("export-precision") if they are of another number format than was asked for, unless that
    is int8: it concerns the tile encoder, whose model folder says so.
    """
    folder = engines_folder(order.folder.path, flavour_name)
    found = [EngineFiles(folder, name) for name in order.model.engines]
    return [(files, _checked(order, files, flavour_name)) for files in found]


def _checked(order: Order, files: EngineFiles, flavour_name: str) -> EngineRecord:
    record = files.read()
    if order.stated and order.precision not in (record.precision, INT8):
        raise InvalidInputError(
            "export-precision",
            f"{files.engine.name} is in {record.precision}, not in {order.precision}.",
            hint=f"{_hint(order, flavour_name)[:-2]} --precision {order.precision}`.",
        )
    if record.model != network_digest(order.folder, files.name):
        raise FatalError(
            "engine-model",
            f"{files.engine.name} was compiled from another model than this.",
            hint=_hint(order, flavour_name),
        )
    for path, digest in ((files.engine, record.engine), (files.recorded, record.recorded)):
        if sha256_file(path) != digest:
            raise FatalError(
                "engine-corrupt",
                f"{path.name} is damaged, or of another engine: its SHA-256 is not the recorded one.",
                hint=_hint(order, flavour_name),
            )
    return record


def _hint(order: Order, flavour_name: str) -> str:
    if flavour(flavour_name).ahead:
        return f"Compile the model: `histgen compile {order.folder.path} --target {flavour_name}`."
    return _COMPILE.format(order.folder.path, flavour_name)


def _largest(records: list[EngineRecord], wanted: int) -> int:
    """Return the largest batch that every engine with a batch axis takes."""
    batches = [_batch(record) for record in records]
    return min((batch for batch in batches if batch), default=wanted)


def _batch(record: EngineRecord) -> int:
    """Return the largest first axis of an engine's leading input; 0 if that is not a batch axis."""
    lead = {"tile_encoder": "tiles", "histgen_step": "tokens"}.get(record.name)
    return max((profile[lead][2][0] for profile in record.profiles), default=0) if lead else 0


def _write_plan(files: EngineFiles, place: Path) -> None:
    shutil.copyfile(files.engine, place / PLAN)
    shutil.copyfile(files.record, place / files.record.name)

"""Loading a model's engines, and the runners that serve them in place of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.engines.device import CudaDevice, Device
from histgen_lib.models.engines.flavours import FLAVOURS, Flavour, flavour
from histgen_lib.models.engines.gate import Case, Finding, cases_of, pass_gate, useless
from histgen_lib.models.engines.numbers import Array
from histgen_lib.models.engines.record import (
    ENCODER,
    STEP,
    TILE_ENCODER,
    EngineFiles,
    check_record,
    engines_folder,
    network_digest,
)
from histgen_lib.models.engines.reports import EngineReports
from histgen_lib.models.engines.runtime import RuntimeCache, check_tensors, open_engine
from histgen_lib.models.engines.session import Engine, EngineSession
from histgen_lib.models.histgen.batches import batched_runner
from histgen_lib.models.serving import Compute, Runner, ServedFolder, Tensors

_SMALLEST_BATCH = 8


@dataclass(frozen=True, eq=False)
class Machine:
    """Where engines run: a TensorRT (`trt` its module) and a GPU."""

    flavour: Flavour
    trt: Any
    device: Device

    @property
    def version(self) -> str:
        """TensorRT's version, which is part of every engine."""
        return str(self.trt.__version__)


def this_machine(name: str) -> Machine:
    """Open this machine's TensorRT of a flavour, and its GPU. Raises as `Flavour.load` and `CudaDevice`."""
    found = flavour(name)
    return Machine(found, found.load(), CudaDevice())


def load_engine(machine: Machine, files: EngineFiles, model: str) -> tuple[Engine, Finding]:
    """Load an engine that is for this model and machine, and computes what it should.

    `model`: digest of the network (`network_digest`). Each profile has kernels of its own, so each has to
    pass. Returns the engine with its largest error on the recorded inputs. Raises FatalError: as
    `EngineFiles.read`, `check_record` and `check_tensors`, "engine-refused", "engine-recorded",
    "engine-numbers".
    """
    record, device = files.read(), machine.device
    check_record(record, files, version=machine.version, capability=device.capability, model=model)
    cases = cases_of(record, files.recorded)
    opened = open_engine(machine.trt, files.engine.read_bytes(), record.name)
    check_tensors(machine.trt, opened, record)
    cache = RuntimeCache(_cache_path(files, machine)) if machine.flavour.ahead else None
    engine = Engine(machine.trt, opened, record, device, cache)
    findings = [_checked(engine.only(place), cases) for place in range(len(record.profiles))]
    engine.keep_cache()
    return engine, max(findings, key=lambda finding: finding.share)


def _checked(engine: Engine, cases: Sequence[Case]) -> Finding:
    """Have an engine pass the gate, with the recorded runs that its profile takes: at least one."""
    taken = [
        case
        for case in cases
        if engine.fitting({name: value.shape for name, value in case.inputs.items()}) is not None
    ]
    if not taken:
        raise useless(f"{engine.record.name}.safetensors", "one of the engine's profiles takes none of them")
    with closing(EngineSession(engine)) as session:
        return pass_gate(session, taken, engine.record.tolerance, engine.record.name)


def engine_runner(
    folder: ServedFolder,
    name: str,
    compute: Compute,
    *,
    machine: Machine | None = None,
    digests: Mapping[str, str] | None = None,
) -> Runner:
    """Return the runner of a served model ("tile_encoder" or "histgen") on the engines of its folder.

    Engines compute in the precision that they were compiled in, on the first GPU. `digests`: those of the
    networks by engine, for a folder without weights (a Triton repository): else they are computed. Raises
    FatalError as `load_engine`; "engine-device" when `compute` asks for a CPU.
    """
    if compute.device != "cuda":
        raise FatalError(
            "engine-device",
            f"Engines run on GPUs only, and {name} was to run on the {compute.device}.",
            hint="Use --device cuda, or the model without engines.",
        )
    machine = machine or this_machine(compiled_flavour(folder.path))
    place = engines_folder(folder.path, machine.flavour.name)

    def load(engine: str) -> Engine:
        model = network_digest(folder, engine) if digests is None else digests[engine]
        return load_engine(machine, EngineFiles(place, engine), model)[0]

    if name == TILE_ENCODER:
        return EngineTiles(load(TILE_ENCODER))
    return batched_runner(folder, EngineReports(EngineSession(load(ENCODER)), load(STEP)))


def compiled_flavour(folder: Path) -> str:
    """Return the flavour of a folder's engines; of several the first of `FLAVOURS` that can be loaded here.

    Raises FatalError: "engine-missing", "engine-package".
    """
    there = [one for one in FLAVOURS.values() if engines_folder(folder, one.name).is_dir()]
    if not there:
        raise FatalError(
            "engine-missing",
            f"The model folder {folder.name} has no engines.",
            hint="Compile them: `histgen compile MODEL --target tensorrt` (or tensorrt-rtx).",
        )
    for one in there[:-1]:
        try:
            one.load()
        except FatalError:
            continue
        return one.name
    return there[-1].name


class EngineTiles:
    """A `Runner` of the tile encoder: batches of the measured size, several side by side if that was faster.

    The rest of a batch is filled up to a power of two: an engine sees few sizes.
    """

    def __init__(self, engine: Engine) -> None:
        measured = engine.record.measured
        (_, _, most) = engine.record.profiles[-1]["tiles"]
        self._batch = min(measured.batch, most[0]) if measured else most[0]
        instances = measured.instances if measured else 1
        self._session = EngineSession(engine, instances)
        self._pool = ThreadPoolExecutor(instances, thread_name_prefix="histgen-engine")

    def infer(self, tensors: Tensors) -> dict[str, Array]:
        """Encode "tiles" uint8[B, S, S, 3] RGB to "features" float16[B, D]; B ≥ 1 or "tensor-shape"."""
        tiles = tensors["tiles"]
        if len(tiles) == 0:
            raise InvalidInputError("tensor-shape", "There are no tiles to encode.")
        pieces = [tiles[start : start + self._batch] for start in range(0, len(tiles), self._batch)]
        return {"features": np.concatenate(list(self._pool.map(self._encode, pieces)))}

    def _encode(self, tiles: Array) -> Array:
        size = min(max(1 << (len(tiles) - 1).bit_length(), _SMALLEST_BATCH), self._batch)
        filled = np.zeros((size, *tiles.shape[1:]), dtype=tiles.dtype)
        filled[: len(tiles)] = tiles
        return self._session.run({"tiles": filled})["features"][: len(tiles)].astype(np.float16)


def _cache_path(files: EngineFiles, machine: Machine) -> Path:
    """Name the file of what TensorRT-RTX compiles for this GPU, beside the engine."""
    gpu = "".join(letter if letter.isalnum() else "-" for letter in machine.device.name)
    return files.folder / f"{files.name}.{gpu}.cache"

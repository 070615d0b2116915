"""`histgen compile`: a model folder's networks become engines, which are tried before they are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export.engines.build import Built, build_engine
from histgen_lib.export.engines.graphs import (
    EngineGraph,
    encoder_graph,
    step_graph,
)
from histgen_lib.export.engines.measure import measure_encoder, measure_step, measure_tiles
from histgen_lib.export.engines.recorded import Reference, encoder_cases, step_cases, tile_cases
from histgen_lib.export.engines.stored import folder_tile_graph
from histgen_lib.export.external_data import data_path
from histgen_lib.export.int8_folder import calibration_tiles
from histgen_lib.files import json_digest, sha256_file, sha256_hex, write_atomic
from histgen_lib.models.engines.device import CudaDevice, Device
from histgen_lib.models.engines.flavours import Flavour, flavour
from histgen_lib.models.engines.gate import INT8_TOLERANCE, TOLERANCES, Case, save_cases
from histgen_lib.models.engines.record import (
    ENCODER,
    STEP,
    TILE_ENCODER,
    Checked,
    EngineFiles,
    EngineRecord,
    Tolerance,
    engines_folder,
    is_a_graph,
    network_digest,
)
from histgen_lib.models.engines.serving import Machine, load_engine
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.models.serving import Precision
from histgen_lib.models.tile_encoder.serving import QUANTISATION, TILE_ENCODER_ONNX
from histgen_lib.slides import TilingSettings

_MEASURES = {TILE_ENCODER: measure_tiles, ENCODER: measure_encoder, STEP: measure_step}

_REAL_TILES = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompileSettings:
    """How to compile.

    flavour        "tensorrt" or "tensorrt-rtx"
    precision      number format of the graphs, and so of the engines
    capabilities   compute capabilities to compile for; () for all that the flavour takes, or the GPU at hand
    beams, max_tokens   of a search, at most; None for what the model's config.json says
    most_tiles     largest slide
    out            folder for the engines; None for the model's own
    timing_cache   file in which TensorRT keeps how quick its kernels were
    features, slides   real features [N, D], and slides whose tiles are read, to record beside drawn ones
    """

    flavour: str
    precision: Precision = "float16"
    capabilities: tuple[str, ...] = ()
    beams: int | None = None
    max_tokens: int | None = None
    most_tiles: int = 100_000
    out: Path | None = None
    timing_cache: Path | None = None
    features: npt.NDArray[Any] | None = None
    slides: tuple[Path, ...] = ()


def compile_model(model: Path, settings: CompileSettings, say: Say) -> list[EngineRecord]:
    """Compile a model folder's tile encoder, if it has one, and its report model's encoder and step.

    Where there is a GPU for them, each engine has to pass the gate before it is kept, and is measured.
    Elsewhere they are kept unchecked, and pass the gate when they are first loaded. `say` takes lines on what
    is under way. Raises FatalError: as `build_engine`, `load_engine`, `load_model`; "engine-gpu-missing";
    InvalidInputError: "bag-shape", as `open_slide`.
    """
    chosen = flavour(settings.flavour)
    chosen.targets(settings.capabilities)
    chosen.load()
    folder = open_model_folder(model)
    _check_features(settings.features, folder.histgen.input_dim)
    workshop = _Workshop(folder, settings, chosen, _device(chosen), say)
    return [workshop.compile(graph) for graph in workshop.graphs()]


def _check_features(features: npt.NDArray[Any] | None, width: int) -> None:
    if features is not None and features.shape[1] != width:
        raise InvalidInputError(
            "bag-shape",
            f"This model takes features [tiles, {width}]; the bag's are {list(features.shape)}.",
            hint="Give a bag of the tile encoder that the model was trained with.",
        )


def _device(chosen: Flavour) -> Device | None:
    try:
        return CudaDevice()
    except FatalError:
        if not chosen.ahead:
            raise
        return None


def _graph_digest(onnx: Path) -> str:
    """Return the digest of a graph; that of a large one counts the file beside it, which has its weights."""
    weights = data_path(onnx)
    if not weights.is_file():
        return sha256_file(onnx)
    return json_digest([sha256_file(path) for path in (onnx, weights)])


class _Workshop:
    """Where one model's engines are made."""

    def __init__(
        self, folder: ModelFolder, settings: CompileSettings, chosen: Flavour, device: Device | None, say: Say
    ) -> None:
        self._folder, self._settings, self._flavour = folder, settings, chosen
        self._device, self._say = device, say
        self._out = settings.out or engines_folder(folder.path, chosen.name)
        self._encoded: Sequence[Case] = ()

    def graphs(self) -> Iterator[EngineGraph]:
        """Describe what there is to compile."""
        config, decoding = self._folder.histgen, self._folder.decoding
        if not is_a_graph(self._folder) or (self._folder.path / TILE_ENCODER_ONNX).is_file():
            yield folder_tile_graph(self._folder)
        network, most = load_model(self._folder.path), self._settings.most_tiles
        yield encoder_graph(network, most)
        beams = self._settings.beams or decoding.beam_size
        yield step_graph(network, beams, self._settings.max_tokens or config.max_tokens, most)

    def compile(self, graph: EngineGraph) -> EngineRecord:
        """Compile one network; return its record once its files are in place."""
        self._out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{graph.name}.", dir=self._out) as place:
            files = EngineFiles(Path(place), graph.name)
            record = self._tried(files, self._made(graph, files))
            files.write(record)
            self._keep(files)
        return record

    def _made(self, graph: EngineGraph, files: EngineFiles) -> EngineRecord:
        precision = self._precision(graph)
        self._say(f"{graph.name}: exporting the graph in {precision}")
        onnx = graph.write(files.folder / "graph.onnx", precision)
        exact = onnx if precision == "float32" else graph.write(files.folder / "exact.onnx", "float32")
        targets = self._flavour.targets(self._settings.capabilities)
        self._say(f"{graph.name}: compiling for {', '.join(targets) or 'this GPU'}")
        built = build_engine(
            self._flavour, onnx, graph.profiles, capabilities=self._settings.capabilities,
            device=self._device, timing_cache=self._settings.timing_cache,
        )  # fmt: skip
        self._say(f"{graph.name}: recording what ONNX Runtime computes")
        save_cases(self._cases(graph, Reference(exact, built.inputs)), files.recorded)
        write_atomic(files.engine, built.plan)
        record = self._record(graph, files, built, _graph_digest(onnx))
        files.write(record)
        return record

    def _cases(self, graph: EngineGraph, reference: Reference) -> list[Case]:
        if graph.name == TILE_ENCODER:
            return tile_cases(reference, graph.sizes["tile_px"], self._real_tiles())
        if graph.name == ENCODER:
            self._encoded = encoder_cases(reference, self._folder.histgen, self._settings.features)
            return list(self._encoded)
        return step_cases(reference, self._encoded, **graph.sizes)

    def _real_tiles(self) -> npt.NDArray[np.uint8] | None:
        if not self._settings.slides:
            return None
        tiling = TilingSettings(**self._folder.tiling)
        return calibration_tiles(self._settings.slides, tiling, _REAL_TILES)

    def _record(self, graph: EngineGraph, files: EngineFiles, built: Built, onnx: str) -> EngineRecord:
        return EngineRecord(
            name=graph.name,
            flavour=self._flavour.name,
            version=built.version,
            capabilities=built.capabilities,
            precision=self._precision(graph),
            model=network_digest(self._folder, graph.name),
            onnx=onnx,
            engine=sha256_hex(built.plan),
            recorded=sha256_file(files.recorded),
            inputs=built.inputs,
            outputs=built.outputs,
            profiles=built.profiles,
            layers=built.layers,
            tolerance=self._tolerance(graph),
            sizes=dict(graph.sizes),
        )

    def _precision(self, graph: EngineGraph) -> Precision:
        stored = graph.name == TILE_ENCODER and is_a_graph(self._folder)
        return "float32" if stored else self._settings.precision

    def _tolerance(self, graph: EngineGraph) -> Tolerance:
        in_int8 = graph.name == TILE_ENCODER and self._folder.encoder.get(QUANTISATION)
        return INT8_TOLERANCE if in_int8 else TOLERANCES[self._precision(graph)]

    def _tried(self, files: EngineFiles, record: EngineRecord) -> EngineRecord:
        """Have an engine pass the gate, and measure it, where a GPU is at hand that it is for."""
        device, name = self._device, record.name
        if device is None or device.capability not in record.capabilities:
            self._say(f"{name}: not yet checked: it has to pass when it is first loaded on such a GPU")
            return record
        machine = Machine(self._flavour, self._flavour.load(), device)
        engine, finding = load_engine(machine, files, record.model)
        self._say(f"{name}: agrees with ONNX Runtime (largest error: {finding.share:.0%} of what is allowed)")
        checked = Checked(
            device=device.name,
            capability=device.capability,
            worst_output=finding.output,
            worst=round(finding.share, 4),
        )
        self._say(f"{name}: measuring on {device.name}")
        return record.model_copy(update={"checked": checked, "measured": _MEASURES[name](engine)})

    def _keep(self, files: EngineFiles) -> None:
        """Move an engine to where it belongs; its record, without which nobody loads it, goes last."""
        kept = EngineFiles(self._out, files.name)
        kept.record.unlink(missing_ok=True)
        for path in (files.engine, files.recorded, *files.folder.glob("*.cache"), files.record):
            path.replace(self._out / path.name)

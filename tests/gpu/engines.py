"""The report model as TensorRT compiles it: engines that pass their gate, and the reports they write."""

from __future__ import annotations

import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpu.bench import Bench, number
from gpu.reports import judge, truth
from gpu.table import milliseconds
from gpu.tiles import random_encoder
from histgen_lib.errors import FatalError
from histgen_lib.models.histgen.batches import BatchedRunner, BatchEngine
from histgen_lib.models.histgen.decoding import DecodingSettings

if TYPE_CHECKING:
    from histgen_lib.models.engines.record import EngineRecord

PRECISION = "bfloat16"
NEEDED = ("onnx", "onnxruntime", "cuda.bindings", "pydantic", "safetensors", "tokenizers", "cv2")
NOT_HERE = ("engine-capability", "engine-cuda", "engine-gpu-missing", "engine-hardware", "engine-package")
"""Errors that say what this machine lacks."""
FLAVOURS = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


def run(bench: Bench) -> None:
    """Compile encoder and step, compare the reports with the CPU's, and measure."""
    there = [flavour for flavour, names in FLAVOURS.items() if any(map(_installed, names))]
    missing = [name for name in NEEDED if not _installed(name)]
    if not bench.on_gpu:
        bench.table.leave_out("engines", "they run on GPUs only")
    elif not there or missing:
        bench.table.leave_out("engines", f"not installed: {', '.join(missing or ['tensorrt'])}")
    else:
        try:
            _compiled(bench, there[0])
        except FatalError as error:
            if error.code in NOT_HERE:
                bench.table.leave_out(f"engines of {there[0]}", str(error))
            else:
                bench.table.fail("engines", there[0], f"{error.code}: {error}")


def _compiled(bench: Bench, flavour: str) -> None:
    from histgen_lib.export.engines.compile import CompileSettings, compile_model
    from histgen_lib.models.engines.serving import engine_runner
    from histgen_lib.models.folder import open_model_folder
    from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
    from histgen_lib.models.serving import Compute
    from histgen_lib.text.tokenizers import WordTokenizer

    sizes = bench.sizes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        tokenizer = WordTokenizer.train(["a b"], threshold=1)
        tiling = {"tile_px": sizes.tile_px, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15}
        new_model_folder(
            folder,
            name="gpu",
            synthetic=True,
            config=sizes.config,
            tokenizer=tokenizer,
            tiling=tiling,
            tile_encoder=random_encoder(bench) if bench.tile_engine else None,
        )
        save_model(folder, bench.model)
        settings = CompileSettings(flavour, PRECISION, most_tiles=sizes.tiles[-1])
        for record in compile_model(folder, settings, lambda _: None):
            _measured(bench, f"{flavour} {PRECISION}: {record.name}", record)
        runner = engine_runner(open_model_folder(folder), "histgen", Compute(device="cuda"))
        assert isinstance(runner, BatchedRunner)
        _reports(bench, flavour, runner.engine)


def _measured(bench: Bench, what: str, record: EngineRecord) -> None:
    """Add what was measured when the engine was compiled; it has passed its gate then."""
    if record.measured is None:
        return
    for size, taken in record.measured.milliseconds.items():
        bench.table.figure("engines", what, size, f"{taken:.3g} ms")
    for rate in record.measured.rates:
        size = f"B={rate.batch}, {rate.instances} at a time"
        bench.table.figure("engines", what, size, f"{rate.tiles_per_s:,.0f} tiles/s")


def _reports(bench: Bench, flavour: str, engine: BatchEngine) -> None:
    sizes = bench.sizes
    how = DecodingSettings(beam_size=sizes.beams, max_tokens=sizes.words)
    found = [engine.write(*bench.slide(tiles), how) for tiles in sizes.compared]
    judge(
        bench,
        f"{flavour} {PRECISION}",
        PRECISION,
        found,
        [truth(bench, tiles, how) for tiles in sizes.compared],
    )
    bags = [bench.slide(sizes.usual + row) for row in range(sizes.together)]
    size = f"N={number(sizes.usual)}, {sizes.beams} × {sizes.words}"
    alone = bench.seconds(partial(engine.write, *bags[0], how))
    bench.table.figure("engines", f"{flavour} {PRECISION}: whole report", size, milliseconds(alone))
    together = bench.seconds(partial(engine.write_many, bags, how))
    found_ = f"{milliseconds(together)}, {together / alone:.2f} × one"
    bench.table.figure(
        "engines", f"{flavour} {PRECISION}: whole reports together", f"{sizes.together} × {size}", found_
    )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of "a.b" there is no "a"
        return False

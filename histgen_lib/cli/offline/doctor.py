"""`histgen doctor`: what is installed, what is missing, and how to fix it.

No check raises: what goes wrong inside one is its finding.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from histgen_lib.cli.options import Model, model_folder
from histgen_lib.cli.output import JsonFlag, emit_json, number_of, out
from histgen_lib.cli.stream.options import server_places
from histgen_lib.errors import HistgenError

UNHEALTHY = 78  # EX_CONFIG of sysexits.h
_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}
Status = Literal["pass", "warn", "fail"]
_GIB = 2**30
_OLDEST_PYTHON = (3, 11)
_REINSTALL = "In a checkout run `make setup`; elsewhere: pip install --force-reinstall histgen"


def doctor(
    model: Model = None,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for drafts; checks free space and permissions."
        ),
    ] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """Check this installation: pass, warn or fail, with a fix for each problem.

    Exits with 78 if anything fails. Warnings concern what only some commands need.

    For example:

      histgen doctor

      histgen doctor --model runs/mine --json
    """
    checks = all_checks(model_folder(model), out_dir)
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        emit_json({"healthy": not failed, "checks": [check.to_dict() for check in checks]})
    else:
        _print(checks)
    raise typer.Exit(UNHEALTHY if failed else 0)


def _print(checks: list[Check]) -> None:
    console = out()
    for check in checks:
        console.print(check.status, style=_STYLES[check.status], end=" ", soft_wrap=True)
        console.print(f"{check.name}: {check.detail}", soft_wrap=True)
        if check.fix and check.status != "pass":
            console.print(f"     → {check.fix}", soft_wrap=True)
    counts = {status: sum(c.status == status for c in checks) for status in _STYLES}
    warnings = number_of(counts["warn"], "warning")
    console.print(f"{counts['pass']} passed, {warnings}, {counts['fail']} failed.")


@dataclass(frozen=True)
class Check:
    """One finding. `fix` says what to do if it is not a pass."""

    name: str
    status: Status
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it JSON-ready."""
        return asdict(self)


def all_checks(model: Path, out_dir: Path) -> list[Check]:
    """Run every check, in the order in which to fix problems."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("openslide", _openslide),
        ("onnxruntime", _onnxruntime),
        ("model", lambda: _model(model)),
        ("model run", lambda: _model_run(model)),
        ("memory", _memory),
        ("output folder", lambda: _output(out_dir)),
        ("disk space", lambda: _disk(out_dir)),
        ("java", _java),
        ("kafka", _kafka),
        ("triton", _triton),
        ("train extra", _train_extra),
        ("gpu", _gpu),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except HistgenError as error:
        return Check(name, "fail", f"{error.message} [{error.code}]", error.hint)
    except Exception as error:  # a broken library can raise anything
        return Check(name, "fail", f"{type(error).__name__}: {error}", _REINSTALL)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "fail", found, "Install Python 3.11 or newer, then recreate the environment.")
    return Check("python", "pass", found)


def _openslide() -> Check:
    import openslide

    return Check(
        "openslide", "pass", f"library {openslide.__library_version__}, bindings {openslide.__version__}"
    )


def _onnxruntime() -> Check:
    import onnxruntime

    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return Check("onnxruntime", "pass", f"{onnxruntime.__version__} ({providers})")


def _model(folder: Path) -> Check:
    """Check that the files exist and that config.json names the encoder's weights."""
    from histgen_lib.files import sha256_file
    from histgen_lib.models.folder import TILE_ENCODER_WEIGHTS
    from histgen_lib.pipeline import load_model

    model = load_model(folder)
    weights = model.folder.path / TILE_ENCODER_WEIGHTS
    stated = model.folder.encoder.get("file_sha256") or model.encoder_sha256
    if weights.is_file() and stated and sha256_file(weights) != stated:
        return Check(
            "model",
            "fail",
            f"{TILE_ENCODER_WEIGHTS} is not the file that config.json names",
            "Copy the model folder again.",
        )
    kind = "synthetic slides only" if model.folder.synthetic else "real slides"
    if model.domain is None:
        return Check(
            "model",
            "warn",
            f"{model.folder.name} cannot detect foreign slides",
            "Train it with histgen train.",
        )
    return Check("model", "pass", f"{model.folder.name} ({kind}), sha256 {model.folder.digest[:16]}…")


def _model_run(folder: Path) -> Check:
    """Load the networks and send one grey tile through both."""
    import numpy as np

    from histgen_lib.inference import OnnxServer
    from histgen_lib.models.histgen import serving as histgen
    from histgen_lib.models.tile_encoder import serving as tile_encoder
    from histgen_lib.pipeline import load_model

    model, server = load_model(folder), OnnxServer(folder, threads=1)
    width = model.folder.histgen.input_dim
    features = np.zeros((1, width), dtype=np.float16)
    if server.ready(tile_encoder.NAME):
        side = model.tiling.tile_px
        grey = np.full((1, side, side, 3), 200, np.uint8)
        features = server.infer(tile_encoder.NAME, {"tiles": grey})["features"]
    answer = server.infer(histgen.NAME, {"features": features, "xy": np.zeros((1, 2), np.int32)})
    detail = f"encoder and decoder answer ({len(answer['tokens'])} tokens)"
    if not server.ready(tile_encoder.NAME):
        return Check(
            "model run", "warn", "no tile encoder: drafts from bags only", "Encode slides elsewhere."
        )
    return Check("model run", "pass", detail)


def _memory() -> Check:
    from histgen_lib.worker.memory import machine_bytes

    total = machine_bytes() / _GIB
    if total < 2:
        return Check("memory", "warn", f"{total:.1f} GiB", "Reading large slides needs at least 2 GiB.")
    return Check("memory", "pass", f"{total:.1f} GiB")


def _output(folder: Path) -> Check:
    existing = _existing(folder)
    if not existing.is_dir():
        return Check("output folder", "fail", f"{existing} is not a folder", "Choose another --out folder.")
    if not os.access(existing, os.W_OK):
        return Check("output folder", "fail", f"{existing} is not writable", "Choose another --out folder.")
    return Check("output folder", "pass", f"{existing} is writable")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_existing(folder)).free / _GIB
    if free < 1:
        return Check(
            "disk space", "warn", f"{free:.1f} GiB free", "A draft takes 1 to 20 MB; free some space."
        )
    return Check("disk space", "pass", f"{free:.1f} GiB free")


def _java() -> Check:
    path = shutil.which("java")
    if path is None:
        return Check(
            "java",
            "warn",
            "not found",
            "Only Kafka, METEOR and the PTB tokenizer need it: apt-get install default-jre-headless",
        )
    return Check("java", "pass", path)


def _kafka() -> Check:
    folder, _ = server_places()
    jars = sorted(folder.glob("kafka_*.jar"))
    if not jars:
        return Check("kafka", "warn", "no jars", "Only --broker kafka needs it: deploy/setup.sh kafka")
    return Check("kafka", "pass", f"{jars[-1].stem} in {folder}")


def _triton() -> Check:
    """Look for the server, and for a numpy version with which its answers would be empty."""
    from histgen_lib.stack.inference import has_triton

    _, home = server_places()
    if not has_triton(home):
        return Check(
            "triton", "warn", "no tritonserver", "Without it workers run the models: deploy/setup.sh triton"
        )
    packages = next(home.glob("lib/python3*/site-packages/pytriton")).parent
    numpy = [path.name.split("-")[1].removesuffix(".dist") for path in packages.glob("numpy-*.dist-info")]
    if not all(version.startswith("1.") for version in numpy) or not numpy:
        found = ", ".join(numpy) or "no numpy"
        return Check(
            "triton", "fail", f"its environment has {found}: answers are empty", "deploy/setup.sh triton"
        )
    return Check("triton", "pass", f"tritonserver in {home}, numpy {numpy[0]}")


def _train_extra() -> Check:
    missing = [name for name in ("torch", "onnx", "tensorboard") if find_spec(name) is None]
    if missing:
        return Check(
            "train extra", "warn", f"without {', '.join(missing)}", "To train: pip install 'histgen[train]'"
        )
    try:
        return Check("train extra", "pass", f"torch {version('torch')}")
    except PackageNotFoundError:
        return Check("train extra", "pass", "torch")


def _gpu() -> Check:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return Check("gpu", "pass", "ONNX Runtime can use CUDA")
    if shutil.which("nvidia-smi"):
        return Check(
            "gpu",
            "warn",
            "there is a GPU, but nothing uses it unless asked",
            "Add --device cuda to encode, train or report (needs the extra train); for servers: docs/gpu.md.",
        )
    return Check("gpu", "pass", "none; not needed")


def _existing(folder: Path) -> Path:
    """Find the folder, or its nearest ancestor that exists."""
    folder = folder.resolve()
    return next(path for path in (folder, *folder.parents) if path.exists())

"""Run the parts one after the other, print the table, and end with 1 if something does not agree."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from functools import partial
from importlib import import_module

import torch

from gpu.bench import SMALL, Bench, DeviceLostError, Sizes, random_model
from gpu.table import Table
from histgen_lib.cores import cores

PARTS = {
    "compare": "reports.compare",
    "measure": "reports.measure",
    "training": "training.run",
    "tiles": "tiles.run",
    "graphs": "graphs.run",
    "engines": "engines.run",
}
"""Functions in modules beside this one, imported when their turn comes: each needs packages of its own."""


def main() -> int:
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here. Small sizes on the CPU: tests/gpu/run.sh --small --device cpu")
        return 1
    if options.small:
        torch.set_num_threads(1)  # at these sizes threads only wait for each other
    sizes = SMALL if options.small else Sizes()
    table = Table(partial(print, file=sys.stderr, flush=True))  # seen even if something ends this process
    bench = Bench(torch.device(options.device), sizes, random_model(sizes.config), table, options.tile_engine)
    print(_machine(bench), flush=True)
    rest = _run_all(bench, options.only or list(PARTS), options.seconds)
    print("\n".join(["", *table.lines(), "", *table.left_out]))
    print(f"{table.failures} of what was compared does not agree." if table.failures else "All agree.")
    if rest:
        print("The GPU answers with errors only: the other parts run in a process of their own.", flush=True)
        again = [sys.executable, "-m", "gpu", *_without_parts(sys.argv[1:]), "--only", *rest]
        subprocess.run(again, check=False)
    return 1 if table.failures else 0


def _run_all(bench: Bench, parts: list[str], seconds: float) -> list[str]:
    """Run the parts; return those that are left when an error has spoilt the GPU for this process."""
    started = time.monotonic()
    for number, name in enumerate(parts):
        before = time.monotonic() - started
        if before > seconds:
            bench.table.leave_out(name, f"{seconds:.0f} s are over")
            continue
        try:
            _run(name, bench)
        except DeviceLostError:
            return parts[number + 1 :]
        print(f"{name}: {time.monotonic() - started - before:.0f} s", file=sys.stderr)
    return []


def _run(name: str, bench: Bench) -> None:
    """Run a part; whatever happens to it, the others still run and the table is printed."""
    module, function = PARTS[name].split(".")
    try:
        with bench.attempt(name, "the part ends"):
            getattr(import_module(f"gpu.{module}"), function)(bench)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("gpu", "histgen_lib")):
            bench.table.fail(name, "the part starts", str(error))
        else:
            bench.table.leave_out(name, f"{error.name} is not installed")


def _without_parts(arguments: list[str]) -> list[str]:
    """Leave out "--only" and the names after it."""
    return [one for one in arguments if one != "--only" and one not in PARTS]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description="Run all GPU code once.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--tile-engine", action="store_true", help="compile the tile encoder, too: minutes more"
    )
    parser.add_argument(
        "--seconds", type=float, default=160.0, help="start no further part after so many seconds"
    )
    return parser.parse_args()


def _machine(bench: Bench) -> str:
    name = platform.processor() or platform.machine()
    if bench.on_gpu:
        facts = torch.cuda.get_device_properties(bench.device)
        name = (
            f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory >> 30} GiB, "
            f"driver {_driver()}; {name}"
        )
    built = f"torch {torch.__version__} (CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})"
    accuracy = f"float32 products: {torch.get_float32_matmul_precision()}"
    return f"{name}, {cores()} cores; {built}, {accuracy}, Python {platform.python_version()}"


def _driver() -> str:
    """Return the version of NVIDIA's driver."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (found.split() or ["unknown"])[0]


if __name__ == "__main__":
    sys.exit(main())

"""Run the parts one after the other, print the table, and end with 1 if something does not agree."""

from __future__ import annotations

import argparse
import platform
import sys
import time
import traceback
from importlib import import_module

import torch

from gpu.bench import SMALL, Bench, Sizes, random_model
from gpu.table import Table

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
    bench = Bench(
        torch.device(options.device), sizes, random_model(sizes.config), Table(), options.tile_engine
    )
    print(_machine(bench))
    started = time.monotonic()
    for name in options.only or PARTS:
        before = time.monotonic() - started
        if before > options.seconds:
            bench.table.leave_out(name, f"{options.seconds:.0f} s are over")
            continue
        _run(name, bench)
        print(f"{name}: {time.monotonic() - started - before:.0f} s", file=sys.stderr)
    print("\n".join(["", *bench.table.lines(), "", *bench.table.left_out]))
    print(
        f"{bench.table.failures} of what was compared does not agree."
        if bench.table.failures
        else "All agree."
    )
    return 1 if bench.table.failures else 0


def _run(name: str, bench: Bench) -> None:
    """Run a part; whatever happens to it, the others still run and the table is printed."""
    try:
        module, function = PARTS[name].split(".")
        getattr(import_module(f"gpu.{module}"), function)(bench)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("gpu", "histgen_lib")):
            raise
        bench.table.leave_out(name, f"{error.name} is not installed")
    except Exception as error:
        traceback.print_exc()
        bench.table.fail(name, "the part ends", f"{type(error).__name__}: {error}"[:300])


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
        name = f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory >> 30} GiB"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())

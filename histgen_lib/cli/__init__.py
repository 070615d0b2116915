"""The command line. `histgen --help` lists the commands; each lives in a module of its own."""

from __future__ import annotations


def main() -> None:
    """Run `histgen` with this process's arguments and leave with its exit code."""
    import io
    import sys

    from histgen_lib.cli.app import run

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are no UTF-8
    sys.exit(run(sys.argv[1:]))

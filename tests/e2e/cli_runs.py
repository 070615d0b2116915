"""Running the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def output(self) -> str:
        """Everything it printed."""
        return self.out + self.err


def histgen(
    *arguments: object, before: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Run:
    """Run `histgen ARGUMENTS`; `before` is Python that runs first in that process (to arrange a mishap)."""
    code = f"import sys\n{before}\nfrom histgen_lib.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})},
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def files_below(folder: Path) -> list[str]:
    """List every file and folder below `folder`, including hidden ones; [] if it does not exist."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

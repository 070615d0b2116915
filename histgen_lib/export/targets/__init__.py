"""The engines that a Triton server can run the models on. A target is one file here.

The file `<target>.py` has a function `export_<target>(model_folder, out) -> Path`, which writes a Triton
model repository, and a docstring whose first line tells people what the target is. `histgen export --target`
finds both.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def target_summaries() -> dict[str, str]:
    """Return each target's name and one-line summary, by name. Imports no target: engines load slowly."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return {path.stem: _summary(path) for path in files}


def export_to(target: str, model_folder: Path | str, out: Path | str) -> Path:
    """Write the models of a folder as a repository for a target; returns `out`. Raises as the target does."""
    export: Callable[[Path | str, Path | str], Path] = getattr(
        import_module(f"{__name__}.{target}"), f"export_{target}"
    )
    return export(model_folder, out)


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]

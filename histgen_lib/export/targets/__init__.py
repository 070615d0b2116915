"""The engines that a Triton server can run the models on. A target is one file here.

The file `<target>.py` ("_" for "-" in the name) has a `TARGET`, and a docstring whose first line tells people
what the target is. `histgen export --target` finds both.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histgen_lib.export.hosting import Choices, Target


def target_summaries() -> dict[str, str]:
    """Return each target's name and one-line summary, by name. Imports no target: engines load slowly."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return {path.stem.replace("_", "-"): _summary(path) for path in files}


def find_target(name: str) -> Target:
    """Return a target by its name."""
    found: Target = import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return found


def export_to(target: str, model_folder: Path | str, out: Path | str, choices: Choices | None = None) -> Path:
    """Write the models of a folder as a repository for a target; return `out`.

    Raises FatalError: "model-missing", "model-config", and as `write_repository`.
    """
    from histgen_lib.export.hosting import Choices
    from histgen_lib.export.repository import write_repository
    from histgen_lib.models.folder import open_model_folder

    folder = open_model_folder(model_folder)
    return write_repository(folder, Path(out), find_target(target), choices or Choices())


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]

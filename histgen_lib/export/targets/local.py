"""Triton's Python backend with ONNX Runtime; no GPU."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.export.hosting import Choices, Target
from histgen_lib.export.python_models import processor_hosting
from histgen_lib.export.repository import write_repository
from histgen_lib.models.folder import open_model_folder


def export_local(
    model_folder: Path | str, out: Path | str, *, reference: bool = False, threads: int | None = None
) -> Path:
    """Write all models that a server can host into the repository `out`, each all at once; returns `out`.

    `reference`: refer to the model folder rather than copy its networks. `threads`: cores that each model may
    use; None for all. Raises FatalError: "model-missing", "model-config", "model-incomplete";
    InvalidInputError("export-output") when a folder with a model's name exists that no export wrote.
    """
    choices = Choices(reference=reference, threads=threads)
    return write_repository(open_model_folder(model_folder), Path(out), TARGET, choices)


TARGET = Target("local", precisions=("float32", "int8"), devices=("cpu",), host=processor_hosting)

"""Arguments and options that several commands share."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from histgen_lib.errors import FatalError
from histgen_lib.models import SHIPPED_MODEL as DEMO_MODEL


def writable_folder(folder: Path | None) -> Path | None:
    """Refuse a results folder that cannot be created or written to, before any work; create nothing.

    Raises FatalError("output-unwritable").
    """
    if folder is not None and (reason := _obstacle(folder)):
        raise FatalError(
            "output-unwritable",
            f"Cannot write to {folder}: {reason}.",
            hint="With --out, choose a folder that you have permission to write to.",
        )
    return folder


def writable_file(path: Path) -> Path:
    """Refuse a file that cannot be written; raises as `writable_folder` does."""
    if path.is_dir():
        raise FatalError(
            "output-unwritable", f"{path} is a folder, not a file.", hint="Give the path of a file."
        )
    writable_folder(path.parent)
    return path


def _finite(mpp: float | None) -> float | None:
    if mpp is not None and not math.isfinite(mpp):
        raise typer.BadParameter(f"{mpp} is not a resolution.")
    return mpp


def _obstacle(folder: Path) -> str:
    """Return what prevents writing to the folder or creating it; "" if nothing is known."""
    try:
        folder = folder.absolute()
        existing = next(path for path in (folder, *folder.parents) if path.is_symlink() or path.exists())
        if not existing.is_dir():
            return f"{existing} is not a folder"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"this account has no permission to write to {existing}"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE…",
        help="Whole-slide images in any format OpenSlide reads, DICOM folders, folders of slides, or globs.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder for the results; created if missing.",
        callback=writable_folder,
    ),
]
Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="DIR", help="Model folder. Default: the synthetic demo model."),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="UM",
        help="µm per pixel of the scan, if the file does not state it or is wrong.",
        callback=_finite,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=1024, metavar="N", help="Cores to use. Default: all."),
]


def model_folder(chosen: Path | None) -> Path:
    """Return the chosen model folder, by default the demo model that ships with the package."""
    return DEMO_MODEL if chosen is None else chosen


def need_train_extra(command: str) -> None:
    """Raise FatalError("extra-train-missing") if torch is not installed."""
    if find_spec("torch") is None:
        raise FatalError(
            "extra-train-missing",
            f"{command} needs the extra `train` (torch and related packages), which is not installed.",
            hint="In a checkout run `make setup`; elsewhere: pip install 'histgen[train]'",
        )

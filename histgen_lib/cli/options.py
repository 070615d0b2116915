"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import histgen_lib

DEMO_MODEL = Path(histgen_lib.__file__).parent / "pretrained" / "synthetic-he"

Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE…",
        help="Whole-slide images in any format OpenSlide reads, DICOM folders, folders of slides, or globs.",
        show_default=False,
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results; made if missing.")
]
Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="DIR", help="Model folder. Default: the synthetic demo model."),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp", metavar="UM", help="µm per pixel of the scan, when the file does not say or is wrong."
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Cores to use. Default: all of them.")
]


def model_folder(chosen: Path | None) -> Path:
    """Choose the model: what was asked for, else the demo model that ships with the package."""
    return DEMO_MODEL if chosen is None else chosen

"""Arguments and options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.output import err
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models import SHIPPED_MODEL as DEMO_MODEL

if TYPE_CHECKING:
    from histgen_lib.training.encoder.source import EncoderChoice


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

OnDevice = Annotated[
    Literal["cpu", "cuda"],
    typer.Option("--device", help="What the networks run on. cuda: an NVIDIA GPU; needs the train extra."),
]
InPrecision = Annotated[
    Literal["float32", "float16", "bfloat16"],
    typer.Option("--precision", help="Number format of the networks; 16 bits are for GPUs."),
]

ENCODER_META = "NAME[=WEIGHTS]"
"""How an encoder is shown in help; `encoder_choice` reads it."""


def encoder_choice(
    text: str | None, *, tile_px: int | None = None, tile_mpp: float | None = None
) -> EncoderChoice:
    """Return the encoder that an option names, by default the demo model's. Needs the train extra."""
    from histgen_lib.training.encoder.source import choose_encoder

    return choose_encoder(text or str(DEMO_MODEL), tile_px=tile_px, mpp=tile_mpp)


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


def expand(arguments: Iterable[str]) -> list[Path]:
    """List the slides and bags of `arguments`, in order, each once; for a folder, all slides in and below it.

    Prints on stderr what is left out of a folder. A path that does not exist is kept: opening it gives the
    right error. Raises InvalidInputError: "slide-none-found" for a glob without matches and for an empty
    argument, "slide-is-folder" for a folder without slides.
    """
    found = (path for argument in arguments for path in _expand(argument))
    return list(dict.fromkeys(found))


def is_bag(path: Path) -> bool:
    """Return whether the path names a bag rather than a slide."""
    from histgen_lib.bags import BAG_SUFFIXES

    return path.suffix.lower() in BAG_SUFFIXES


def _expand(argument: str) -> Iterator[Path]:
    import glob

    if not argument:  # from an unset variable; as a path it would be the current folder
        raise InvalidInputError(
            "slide-none-found", "A slide argument is empty.", hint="Check the variables in the command."
        )
    path = Path(argument)
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(argument))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise InvalidInputError(
                "slide-none-found",
                f"Nothing matches {argument}.",
                hint="Check the pattern. It is relative to the current folder.",
            )
        for match in matches:
            yield from _expand(match)
    else:
        yield path


def _in_folder(folder: Path) -> list[Path]:
    """List the slides of a folder, and print what else it contains."""
    from histgen_lib.access.finding import find_slides, looked_for, summary

    found = find_slides(folder)
    left_out = summary(found.left_out) if found.left_out else ""
    if not found.slides and _holds_dicom(folder):
        return [folder]
    if not found.slides:
        raise InvalidInputError(
            "slide-is-folder",
            f"There is no slide in {folder} or below it{f' ({left_out})' if left_out else ''}.",
            hint=f"File names of slides end in {looked_for()}. Name other slides, and bags, one by one.",
        )
    if left_out:
        err().print(f"{folder}: {left_out}.", style="dim", soft_wrap=True)
    return found.slides


def _holds_dicom(folder: Path) -> bool:
    """Return whether a folder without files named like slides holds a DICOM series."""
    from histgen_lib.slides.formats import is_dicom

    return any(is_dicom(path) for path in folder.iterdir() if path.is_file())

"""Weights as others store them: a state dict, a checkpoint with one, or a file of either; no code is run."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import check_ordinary

Source = Mapping[str, Tensor | npt.NDArray[Any]] | nn.Module | BinaryIO | str | os.PathLike[str]

_NUMBER_KINDS = "?bBhHiIlLqQefd"


def read_state(source: object) -> dict[str, Any]:
    """Read names and values of a state dict, a checkpoint ({"state_dict": …}), a file of either, or a module.

    Names are as a single process without wrappers would have saved them; values are not checked yet.
    Raises InvalidInputError("checkpoint-unreadable").
    """
    content = _content(source)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise _unreadable("This holds neither a state dict nor a training checkpoint with one.")
    return {name.removeprefix("module."): value for name, value in content.items()}


def as_weight(name: str, value: object) -> Tensor:
    """Return one value of a state dict (a tensor, or a NumPy array of numbers) as float32 on the CPU.

    Raises InvalidInputError: "checkpoint-unreadable" for anything else, "checkpoint-not-finite".
    """
    weight = _as_float32(value)
    if weight is None:
        raise _unreadable(f"{name} holds {type(value).__name__}, not an array of real numbers.")
    if not bool(weight.isfinite().all()):
        raise InvalidInputError(
            "checkpoint-not-finite",
            f"{name} holds values that are infinite or not numbers.",
            hint="The training may have diverged: use an earlier checkpoint.",
        )
    return weight


def _as_float32(value: object) -> Tensor | None:
    try:
        if isinstance(value, Tensor) and not value.is_complex() and value.layout == torch.strided:
            return value.detach().to("cpu", torch.float32)
        if isinstance(value, np.ndarray) and value.dtype.char in _NUMBER_KINDS:
            with np.errstate(over="ignore"):
                return torch.from_numpy(np.array(value, dtype=np.float32))
    except RuntimeError:  # tensors without plain numbers: quantised, or on the meta device
        return None
    return None


def _content(source: object) -> object:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, nn.Module):
        return source.state_dict()
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        return _read_file(path, path.name)
    if hasattr(source, "read") and hasattr(source, "seek"):
        return _read_file(cast(BinaryIO, source), "This stream")
    raise _unreadable(f"Pass weights as a state dict or the path of one, not as {type(source).__name__}.")


def _read_file(file: Path | BinaryIO, name: str) -> object:
    try:
        if isinstance(file, Path):
            check_ordinary(file)  # a pipe might never end, nor a device
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(f"Cannot read {name}: {error.strerror or error}.") from error
    except Exception as error:  # torch raises pickle, zip and runtime errors of many kinds here
        raise InvalidInputError(
            "checkpoint-unreadable",
            f"{name} is not a PyTorch weights file ({type(error).__name__}).",
            hint="Files that need code to be run on loading are refused.",
        ) from error


def _harmless() -> list[Any]:
    """Return types that training scripts store with the weights: NumPy numbers and arrays, parsed options.

    They contain values only. NumPy 1 and 2 name the module of their constructors differently.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    makers = [
        (maker, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for maker, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    numbers = [np.dtype(kind) for kind in _NUMBER_KINDS]
    return [
        Namespace,
        np.dtype,
        np.ndarray,
        *makers,
        *{number.type for number in numbers},
        *{type(number) for number in numbers},
    ]


def _unreadable(message: str) -> InvalidInputError:
    return InvalidInputError(
        "checkpoint-unreadable",
        message,
        hint="Give the weights file that the training wrote, such as HistGen's model_best.pth.",
    )

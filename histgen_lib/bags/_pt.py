"""Bags as HistGen's own extraction saved them: a bare torch tensor [N,D] without places or metadata."""

from __future__ import annotations

import math
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags.bag import Bag, as_float16, check_size, unreadable
from histgen_lib.errors import FatalError, InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path) -> Bag:
    """Read a tensor [N,D] or [1,N,D]; places are unknown (`Bag.has_places` is False)."""
    try:
        import torch
    except ImportError as error:
        raise FatalError(
            "bag-needs-torch",
            f"Reading {path.name} needs torch, which is not installed.",
            hint="Install the train extra: pip install 'histgen[train]'",
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, about its own file formats
            tensor = _load(path)
            features = _as_float16(tensor, path.name) if isinstance(tensor, torch.Tensor) else None
    except InvalidInputError:
        raise
    except Exception as error:  # torch raises anything for files that are not its own
        raise unreadable(path.name, "it is not a tensor that torch saved") from error
    if features is None:
        raise unreadable(path.name, "it does not hold a single tensor of features")
    return Bag(
        slide_id=path.stem,
        features=features,
        xy=np.zeros((len(features) if features.ndim else 0, 2), np.int32),
        span_px=math.nan,
        tile_px=0,
        mpp=math.nan,
        slide_mpp=math.nan,
        slide_size=(0, 0),
        encoder_name="",
        encoder_sha256="",
    )


def _load(path: Path) -> Any:
    """Load what torch saved, without running anything in the file; indices of a sparse tensor are checked.

    A file may hold far more than its tensor shows (a view of a large one), so it is mapped, not read.
    """
    import torch

    packed = zipfile.is_zipfile(path)
    if packed:
        with zipfile.ZipFile(path) as entries:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.infolist()):
                raise unreadable(path.name, "it is compressed, unlike any saved tensor")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=packed)


def _as_float16(tensor: Tensor, name: str) -> NDArray[np.float16]:
    """Return a tensor of any real type as float16; a sparse or quantised one is expanded."""
    import torch

    check_size(name, tensor.shape)
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout not in (torch.strided, torch.sparse_coo):
        tensor = tensor.to_sparse()
    tensor = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    return as_float16(name, tensor.shape, partial(_rows, tensor))


def _rows(tensor: Tensor, rows: slice) -> NDArray[Any]:
    some = tensor.narrow_copy(0, rows.start, min(rows.stop, len(tensor)) - rows.start).to_dense()
    real = str(some.dtype).removeprefix("torch.")
    as_it_is = real in ("float16", "float32", "float64", "bool") or some.is_complex()
    return np.asarray((some if as_it_is else some.float()).numpy())

"""Bags as HistGen's own extraction saved them: a bare torch tensor [N,D] without places or facts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags._damage import check_size, halves, unreadable
from histgen_lib.bags.bag import Bag
from histgen_lib.errors import FatalError, InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path) -> Bag:
    """Read a tensor [N,D] or [1,N,D]; places are unknown (`Bag.has_places` is False)."""
    try:
        import torch  # noqa: PLC0415 - only .pt files need it
    except ImportError as error:
        raise FatalError(
            "bag-needs-torch",
            f"Reading {path.name} needs torch, which is not installed.",
            hint="Install the train extra: pip install 'histgen[train]'",
        ) from error
    try:
        # Nothing in the file is run, and the indices of a sparse tensor are checked.
        tensor = torch.load(path, map_location="cpu", weights_only=True)
        features = _plain(tensor, path.name) if isinstance(tensor, torch.Tensor) else None
    except InvalidInputError:
        raise
    except Exception as error:  # torch raises what it likes for files that are none of its own
        raise unreadable(path.name, "it is not a tensor that torch saved") from error
    if features is None:
        raise unreadable(path.name, "it holds something else than one tensor of features")
    return Bag(
        slide_id=path.stem,
        features=halves(path.name, features),
        xy=np.zeros((len(features) if features.ndim else 0, 2), np.int32),
        span_px=math.nan,
        tile_px=0,
        mpp=math.nan,
        slide_mpp=math.nan,
        slide_size=(0, 0),
        encoder_name="",
        encoder_sha256="",
    )


def _plain(tensor: Tensor, name: str) -> NDArray[Any]:
    """Make a tensor of any real type an array: a sparse one dense, a quantised one of what it stands for."""
    check_size(name, tensor.shape)
    tensor = tensor.detach()
    tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    tensor = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    real = str(tensor.dtype).removeprefix("torch.")
    as_it_is = real in ("float16", "float32", "float64") or tensor.is_complex()
    return np.asarray((tensor if as_it_is else tensor.float()).numpy())

"""Bags as HistGen's own extraction saved them: a bare torch tensor [N,D] without places or facts."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np

from histgen_lib.bags._damage import unreadable
from histgen_lib.bags.bag import Bag
from histgen_lib.errors import FatalError


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
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise unreadable(path.name, "it is not a tensor that torch saved") from error
    if not isinstance(tensor, torch.Tensor):
        raise unreadable(path.name, "it holds something else than one tensor of features")
    features = tensor.detach()[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor.detach()
    halves = features.to(torch.float16).numpy()
    return Bag(
        slide_id=path.stem,
        features=halves,
        xy=np.zeros((len(halves) if halves.ndim else 0, 2), np.int32),
        span_px=math.nan,
        tile_px=0,
        mpp=math.nan,
        slide_mpp=math.nan,
        slide_size=(0, 0),
        encoder_name="",
        encoder_sha256="",
    )

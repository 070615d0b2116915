"""Resizing as two matrix products that equal Pillow's resize to the last level, on every device.

Published pipelines resize tiles with Pillow: rows first, rounded to whole levels, then columns, rounded
again. Each pass is linear with weights that depend on the sizes alone, so it is a constant matrix. Pillow's
weights are whole multiples of 2^-22 (`src/libImaging/Resample.c`: PRECISION_BITS). As two numbers of 11 bits
each, high and low, they and all sums are exact in float32, and the factors even in TF32 and float16: no
device, thread count or order of summation changes a level.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histgen_lib.models.tile_encoder.row import Interpolation, Preprocessing

_A = -0.5
"""The cubic convolution's parameter (Keys 1981) in Pillow's "bicubic"."""
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_HALF_BITS = 11
_BASE = 2.0**_HALF_BITS


@lru_cache(maxsize=64)
def resampling_weights(size: int, resized: int, interpolation: Interpolation) -> npt.NDArray[np.int64]:
    """Return Pillow's weights [resized, size] of one pass, in units of 2^-22.

    Filters get wider by the factor of reduction (antialiasing); rows sum to 2^22, up to rounding.
    """
    scale = size / resized
    stretch = max(scale, 1.0)
    reach = _SUPPORT[interpolation] * stretch
    centres = (np.arange(resized) + 0.5) * scale
    first = np.maximum(np.trunc(centres - reach + 0.5), 0)[:, None]
    last = np.minimum(np.trunc(centres + reach + 0.5), size)[:, None]
    pixels = np.arange(size)[None]
    weights = _filter((pixels - centres[:, None] + 0.5) * (1.0 / stretch), interpolation)
    weights = np.where((pixels >= first) & (pixels < last), weights, 0.0)
    scaled = weights * (1.0 / weights.sum(axis=1, keepdims=True)) * _BASE**2
    units: npt.NDArray[np.int64] = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64)
    return units


def _filter(x: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


class Pixels(nn.Module):
    """Tiles uint8[B, H, W, 3] RGB -> a network's input float32[B, 3, side, side].

    The tiles' size is a constant of a traced graph. Everything is computed in float32 whatever the network's
    own number format is; the constants are neither parameters nor buffers, so that `.half()` leaves them be.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self._constants: dict[tuple[str, int, torch.device], Tensor] = {}

    def forward(self, tiles: Tensor) -> Tensor:
        """Resize, crop and normalise. The cast comes before the transpose: TensorRT transposes no uint8."""
        height, width = int(tiles.shape[1]), int(tiles.shape[2])
        x = tiles.float().permute(0, 3, 1, 2)
        if self._resizes(width):
            x = _levels(*(x @ self._constant("columns", width, x.device)).chunk(2, dim=3))
        if self._resizes(height):
            x = _levels(*(self._constant("rows", height, x.device) @ x).chunk(2, dim=2))
        pixels: Tensor = x * self._constant("scale", 0, x.device) - self._constant("shift", 0, x.device)
        return pixels

    def _resizes(self, size: int) -> bool:
        return size != self._resized or self._resized != self.preprocessing.side

    @property
    def _resized(self) -> int:
        return self.preprocessing.resize or self.preprocessing.side

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _constant(self, name: str, size: int, device: torch.device) -> Tensor:
        key = (name, size, device)
        if key not in self._constants:
            values = self._matrix(name, size) if size else self._affine(name)
            with torch.inference_mode(mode=False):  # it may later be used in training
                self._constants[key] = torch.from_numpy(values.astype(np.float32)).to(device)
        return self._constants[key]

    def _affine(self, name: str) -> npt.NDArray[np.float64]:
        """Return "scale" or "shift" [3, 1, 1]: levels · scale - shift is normalised."""
        mean, std = (np.asarray(v)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std))
        values: npt.NDArray[np.float64] = 1.0 / (255.0 * std) if name == "scale" else mean / std
        return values

    def _matrix(self, name: str, size: int) -> npt.NDArray[np.float64]:
        """Return "rows" [2·side, size] (high, low), or "columns", its transpose: resize, then crop."""
        side, resized = self.preprocessing.side, self._resized
        start = round((resized - side) / 2)
        weights = resampling_weights(size, resized, self.preprocessing.interpolation)[start : start + side]
        matrix = np.concatenate(np.divmod(weights, int(_BASE))).astype(np.float64)
        return np.ascontiguousarray(matrix.T) if name == "columns" else matrix


def _levels(high: Tensor, low: Tensor) -> Tensor:
    """Return whole levels of sums in units of 2^-11 and 2^-22, rounded as Pillow does, half up."""
    return torch.floor((high + torch.floor(low / _BASE) + _BASE / 2) / _BASE).clamp(0.0, 255.0)

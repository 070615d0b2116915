"""A slide's features from the host's memory to the decoder's cross memory on a device, by torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.captured import captured, size_class
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.on_device import DeviceEncoder
from histgen_lib.models.sending import Sender

_CHUNK_ROWS = 8192
"""Tiles that travel at once: 16 MiB at 1,024 features of two bytes."""

_CAPTURED_REGIONS = 96
"""Slides up to this size are encoded in one launch; with larger ones the device is busier than the host."""


class Encoded(NamedTuple):
    """One slide on the device: tile_weights float32[R, P] and cross [L, 2, 1, h, R, k]."""

    tile_weights: Tensor
    cross: Tensor


class SlideEncoder:
    """The encoder on a device. Not for several threads at once."""

    def __init__(self, model: HistGen, device: torch.device, dtype: torch.dtype) -> None:
        self._network = DeviceEncoder(model).to(device, dtype).eval()
        self._device, self._dtype = device, dtype
        self._sender = Sender(device)
        self._captured: dict[tuple[int, torch.dtype], _CapturedEncoder] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, features: Features, places: Arrangement) -> Encoded:
        """Encode features [N, D], in input order, whose regions `places` gives.

        Raises InvalidInputError("bag-not-finite") for float32 features beyond what float16 can hold.
        """
        wire = self._wire(features)
        regions = len(places.rows)
        if self._device.type == "cuda" and regions <= _CAPTURED_REGIONS:
            return self._static(size_class(regions), wire)(features, places)
        network = self._network
        x = torch.empty(len(features), network.config.d_model, dtype=self._dtype, device=self._device)
        for first in range(0, len(features), _CHUNK_ROWS):
            part = slice(first, first + _CHUNK_ROWS)
            x[part] = network.embed_tiles(self._sender.send(features[part], wire))
        rows, mask, prototypes = (self._sender.send(one) for one in places)
        return Encoded(*network.encode_regions(network.add_context(x, prototypes), rows, mask))

    def _wire(self, features: Features) -> torch.dtype:
        """Return the type in which features travel: float16 as they are, float32 as the network's own."""
        if features.dtype != np.float16 and self._dtype == torch.float16:
            _check_range(features)
        return torch.float16 if features.dtype == np.float16 else self._dtype

    def _static(self, regions: int, wire: torch.dtype) -> _CapturedEncoder:
        if (regions, wire) not in self._captured:
            self._captured[regions, wire] = _CapturedEncoder(
                self._network, self._sender, regions, wire, self._pool
            )
        return self._captured[regions, wire]


def _check_range(features: Features) -> None:
    limit = np.finfo(np.float16).max
    if features.max() > limit or features.min() < -limit:
        raise InvalidInputError(
            "bag-not-finite",
            "Some tile features do not fit into float16.",
            hint="Encode the slide again, or run the model in bfloat16 or float32.",
        )


class _CapturedEncoder:
    """The encoder for up to R regions, in one launch."""

    def __init__(
        self, network: DeviceEncoder, sender: Sender, regions: int, wire: torch.dtype, pool: Any
    ) -> None:
        self._network, self._sender = network, sender
        config, device = network.config, network.embed.weight.device
        shape = regions, config.tiles_per_region
        self._features = torch.zeros(
            regions * config.tiles_per_region, config.input_dim, dtype=wire, device=device
        )
        self._rows = torch.zeros(shape, dtype=torch.int64, device=device)
        self._mask = torch.zeros(shape, dtype=torch.bool, device=device)
        self._mask[0] = True
        self._prototypes = torch.zeros(config.prototype_num, dtype=torch.int64, device=device)
        heads, width = config.num_heads, config.d_model // config.num_heads
        self._tile_weights = torch.zeros(shape, device=device)
        self._cross = torch.zeros(
            config.num_layers, 2, 1, heads, regions, width, dtype=network.embed.weight.dtype, device=device
        )
        self._run = captured(self._work, device, pool)

    def __call__(self, features: Features, places: Arrangement) -> Encoded:
        regions = len(places.rows)
        for first in range(0, len(features), _CHUNK_ROWS):
            self._sender.send_into(self._features[first:], features[first : first + _CHUNK_ROWS])
        self._rows.zero_()  # spare places show a tile of this slide, never one that an earlier slide left
        self._mask.zero_()
        for target, values in zip((self._rows, self._mask, self._prototypes), places, strict=True):
            self._sender.send_into(target, values)
        self._run()
        # The next slide overwrites the buffers.
        return Encoded(self._tile_weights[:regions].clone(), self._cross[..., :regions, :].clone())

    def _work(self) -> None:
        found = self._network(self._features, self._rows, self._mask, self._prototypes)
        self._tile_weights.copy_(found[0])
        self._cross.copy_(found[1])

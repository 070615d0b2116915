"""What a run works with: the device, the sizes, a random model and its slides, a clock."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from gpu.table import Table
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layout import Arrangement, arrange
from histgen_lib.models.histgen.network import HistGen

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the defaults are the published sizes."""

    config: HistGenConfig = field(default_factory=HistGenConfig)
    compared: tuple[int, ...] = (95, 1_000, 4_000)
    tiles: tuple[int, ...] = (1_000, 4_000, 10_000, 100_000)
    usual: int = 4_000
    beams: int = 3
    words: int = 100
    together: int = 8
    encoder: str = "timm:vit_large_patch14_reg4_dinov2?img_size=224&side=224"
    tile_px: int = 224
    batches: tuple[int, ...] = (32, 64, 128, 256)
    repeats: int = 5


SMALL = Sizes(
    config=HistGenConfig(
        input_dim=24, d_model=32, d_ff=32, d_vf=48, num_heads=4, num_layers=2, region_size=8, cmm_size=32,
        cmm_dim=32, topk=8, prototype_num=12, vocab_size=60, max_tokens=16,
    ),
    compared=(7, 50),
    tiles=(20, 90),
    usual=50,
    words=12,
    together=3,
    encoder="timm:vit_tiny_patch16_224?img_size=32&side=32",
    tile_px=32,
    batches=(8,),
    repeats=1,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bench:
    """The device and what runs on it."""

    device: torch.device
    sizes: Sizes
    model: HistGen
    table: Table
    tile_engine: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def slide(self, tiles: int) -> tuple[np.ndarray, Arrangement]:
        """Make features float16[N, D] in mixed order, read-only as bags have them, and their regions."""
        return _slide(self.sizes.config, tiles)

    @contextmanager
    def attempt(self, part: str, what: str) -> Iterator[None]:
        """Turn an error into a row and go on. Raises DeviceLostError if the GPU does nothing any more."""
        try:
            yield
        except (DeviceLostError, ModuleNotFoundError):
            raise
        except Exception as error:
            traceback.print_exc()
            self.table.fail(part, what, f"{type(error).__name__}: {error}")
            self._require_device(error)

    def _require_device(self, error: Exception) -> None:
        """Raise DeviceLostError if an error spoils whatever this process does on the GPU from now on."""
        try:
            self.wait()
        except RuntimeError:
            raise DeviceLostError from error

    def seconds(self, work: Callable[[], object], repeats: int = 0) -> float:
        """Return how long `work` takes at best, until the device is done; one run goes before."""
        times = []
        for _ in range(1 + (repeats or self.sizes.repeats)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def peak(self, work: Callable[[], object]) -> str:
        """Return the most memory that torch holds on the GPU during `work`; of the process on a CPU.

        With what it keeps in reserve: memory of captured graphs counts as nothing else.
        """
        if not self.on_gpu:
            work()
            return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB (process)"
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return f"{torch.cuda.max_memory_reserved(self.device) / 2**30:.2f} GiB"


class DeviceLostError(Exception):
    """The GPU answers this process with errors only."""


@lru_cache
def _slide(config: HistGenConfig, tiles: int) -> tuple[np.ndarray, Arrangement]:
    rng = np.random.default_rng(tiles)
    features = rng.standard_normal((tiles, config.input_dim), dtype=np.float32).astype(np.float16)
    features.flags.writeable = False
    return features, arrange(rng.permutation(tiles), config.tiles_per_region, config.prototype_num)


def random_model(config: HistGenConfig) -> HistGen:
    """Make a network that prefers some words clearly, so that texts can be compared, and never ends early."""
    torch.manual_seed(0)
    model = HistGen(config).eval()
    with torch.no_grad():
        model.logit.weight.mul_(8.0)
        model.logit.bias[0] = -1e4
    return model


def number(count: int) -> str:
    return f"{count:,}"

"""Weights files: found where they are already, read without running code, fitted to a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from histgen_lib.errors import FatalError
from histgen_lib.models.tile_encoder import key_maps
from histgen_lib.models.tile_encoder.row import Source

_ALSO = ("model.safetensors", "pytorch_model.bin")
"""Names under which hub repositories keep the same weights in other formats."""
_NAMED = 3
"""Tensors that an error names."""


def cached(source: Source, name: str, licence: str) -> Path:
    """Return a weights file from the Hugging Face hub's cache on this machine; nothing is downloaded.

    Raises FatalError("encoder-weights-missing"), which says where the weights are and under which licence.
    """
    path = _from_cache(source) if source.repo else None
    if path is None:
        ask = "access has to be asked for" if source.gated else "free to download"
        raise FatalError(
            "encoder-weights-missing",
            f"The weights of {name} are not here: {source.file} from {source.page} ({ask}; "
            f"licence: {licence}).",
            hint=f"Download that file and write {name}=<file>"
            + (", or have it in the Hugging Face cache." if source.repo else "."),
        )
    return path


def _from_cache(source: Source) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for file in dict.fromkeys((source.file, *_ALSO)):
        found = try_to_load_from_cache(str(source.repo), file, repo_type=source.kind)
        if isinstance(found, str):
            return Path(found)
    return None


def load_weights(network: nn.Module, name: str, weights: Path, names: str = "timm") -> None:
    """Load a weights file into a network, in the numbers' format that the network has.

    `names`: the function of `key_maps` for the file's names. Raises FatalError("encoder-weights") when the
    file cannot be read, or does not hold exactly this network's tensors; the first of them are named.
    """
    if not weights.is_file():
        raise FatalError(
            "encoder-weights",
            f"There is no file {weights}, from which the weights of {name} were to come.",
            hint=f"Check the path after the = sign: {name}=<file>.",
        )
    try:
        tensors = key_maps.unwrapped(_read(weights))
        mapped = getattr(key_maps, names)(tensors, network)
    except Exception as error:  # safetensors, pickle and torch each raise their own kinds
        raise _unfit(weights, name, str(error).partition("\n")[0]) from error
    wrong = misfits(mapped, network)
    if wrong:
        raise _unfit(weights, name, wrong)
    network.load_state_dict(_as_wanted(mapped, network), strict=False, assign=True)


def _read(weights: Path) -> Mapping[str, Any]:
    if weights.suffix == ".safetensors":
        return load_file(weights)
    mapped = is_zipfile(weights)  # as torch writes since 1.6; read where it lies, not into memory first
    try:
        content: Mapping[str, Any] = torch.load(weights, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # pickle's own words are about opcodes and classes
        raise ValueError("it is damaged, no torch file, or holds more than tensors") from error
    if not isinstance(content, Mapping):
        raise ValueError("it holds no tensors by name")
    return content


def _as_wanted(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Copy tensors to memory of a network's own: of its types, order and alignment, on which bits depend."""
    wanted = network.state_dict()
    return {
        n: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(tensors[n])
        for n, like in wanted.items()
        if n in tensors
    }


def misfits(tensors: Mapping[str, Tensor], network: nn.Module) -> str:
    """Name what a network misses, does not know, or has in another shape; "" if all fits."""
    counters = "num_batches_tracked"  # of batch norm, in training; older files have none
    wanted = {n: value for n, value in network.state_dict().items() if not n.endswith(counters)}
    unknown = [n for n in tensors if n not in wanted and not n.endswith(counters)]
    shapes = [
        f"{n} {list(tensors[n].shape)} instead of {list(value.shape)}"
        for n, value in wanted.items()
        if n in tensors and tensors[n].shape != value.shape
    ]
    parts = {
        "missing": [n for n in wanted if n not in tensors],
        "unknown": unknown,
        "of another shape": shapes,
    }
    return "; ".join(f"{what}: {_first(names)}" for what, names in parts.items() if names)


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _unfit(weights: Path, name: str, why: str) -> FatalError:
    return FatalError(
        "encoder-weights",
        f"{weights.name} does not hold weights of {name} ({why}).",
        hint="Give the local weights file of exactly this encoder.",
    )


def state_digest(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, for weights that no file holds."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

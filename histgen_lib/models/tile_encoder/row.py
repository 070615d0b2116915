"""What is stated about a tile encoder that is published elsewhere; see `rows.py`. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from histgen_lib.errors import FatalError

Interpolation = Literal["bicubic", "bilinear"]
Pooling = Literal["own", "class", "class+mean", "mean", "map"]
"""How a feature is made of what the network yields.

own          the network pools by itself
class        the class token
class+mean   the class token, then the mean of the patch tokens; registers are left out
mean         the mean of the patch tokens
map          the mean over the last feature map
"""
Value = str | int | float | bool | tuple[int | float, ...] | None
"""What an argument of an architecture can be."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From a tile's pixels to a network's input.

    side            px of the network's input
    resize          px to which the tile is resized, before its centre of `side` px is cut out; `side` if None
    mean, std       of each channel, on a scale from 0 to 1
    interpolation   the filter, with antialiasing, as Pillow has it
    """

    side: int
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Preprocessing:
        """Rebuild it from `to_json`'s values. Raises FatalError("model-config") for others."""
        try:
            values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stated.items()}
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise FatalError(
                "model-config",
                f"The preprocessing that a model's tile encoder states cannot be used ({error}).",
                hint="Was it written by another version, or edited? Fetch the model again.",
            ) from error


@dataclass(frozen=True)
class Source:
    """Where weights are published.

    page    for people
    repo    on the Hugging Face hub ("owner/name"), or None
    file    name of the weights file
    gated   the publisher has to grant access
    kind    of the hub's repository
    """

    page: str
    repo: str | None
    file: str
    gated: bool = False
    kind: Literal["model", "dataset"] = "model"


def hub(repo: str, file: str, *, gated: bool = False) -> Source:
    """Return the source of a model on the Hugging Face hub."""
    return Source(f"https://huggingface.co/{repo}", repo, file, gated)


@dataclass(frozen=True)
class EncoderRow:
    """One published tile encoder.

    name            what users call it
    publisher       who published it
    architecture    name of timm's model, or "conch", "ctranspath"
    arguments       what the architecture is built with
    source          where its weights are
    licence         of its weights
    params          number of parameters of the network that we build
    published       that number in millions as its authors state it, or as others counted it on the published
                    weights; None where neither was found
    dim             width of a feature
    tile_px, mpp    side of a tile, and µm per px, that its authors use
    preprocessing   from tile to input
    pooling         from tokens to feature
    names           the naming of the weights file's tensors: a function of `key_maps`
    """

    name: str
    publisher: str
    architecture: str
    source: Source
    licence: str
    params: int
    published: float | None
    dim: int
    tile_px: int
    mpp: float
    preprocessing: Preprocessing
    pooling: Pooling = "class"
    names: str = "timm"
    arguments: Mapping[str, Value] = field(default_factory=dict)

"""The sizes and behaviour of a HistGen network, and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from histgen_lib.errors import InvalidInputError

Mode = Literal["published", "corrected"]
Pooling = Literal["bounded", "free"]

REGION_LAYERS = 2
"""Layers of the hierarchical encoder; only the first has the slide-level step (HistGen, section 2.2)."""


@dataclass(frozen=True)
class HistGenConfig:
    """Sizes and behaviour of a HistGen network; the defaults are the published training settings.

    `mode` is "published" (numerically what the authors' code computes) or "corrected" (the region token is
    read where it was written, padding is excluded from pooling, tiles come in `tile_order`).
    `pooling` is "bounded" (published: weights softmax(tanh(v·(Wx+b))), at most e² apart) or "free"
    (softmax(v·tanh(Wx+b)): one tile can speak for its region).
    `vocab_size` is the number of words V; the network has V+1 outputs, id 0 being begin, end and padding.
    `region_size` counts a region's positions: region_size−1 tiles and one region token.
    """

    mode: Mode = "corrected"
    input_dim: int = 1024
    d_model: int = 512
    d_ff: int = 512
    d_vf: int = 2048
    num_heads: int = 8
    num_layers: int = 3
    region_size: int = 96
    cmm_size: int = 2048
    cmm_dim: int = 512
    topk: int = 512
    prototype_num: int = 512
    vocab_size: int = 1000
    max_tokens: int = 100
    dropout: float = 0.1
    feature_dropout: float = 0.5
    pooling: Pooling = "bounded"

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InvalidInputError(
                "model-config", f"These HistGen sizes cannot be built: {problem}.", hint="Correct the config."
            )

    @property
    def tiles_per_region(self) -> int:
        """Tiles in a full region: one of its `region_size` positions belongs to the region token."""
        return self.region_size - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the section "histgen" of a model folder's config.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HistGenConfig:
        """Invert `to_json`. Raises InvalidInputError("model-config") for unknown names."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InvalidInputError(
                "model-config",
                f"Unknown HistGen settings: {', '.join(unknown)}.",
                hint="A newer version may have written this model: update histgen.",
            )
        return cls(**values)

    def _problem(self) -> str:
        whole = [f.name for f in fields(self) if isinstance(getattr(self, f.name), int)]
        small = [name for name in whole if getattr(self, name) < 1]
        checks = {
            f"{', '.join(small)} must be at least 1": not small,
            f"mode {self.mode!r} is neither published nor corrected": self.mode in {"published", "corrected"},
            f"pooling {self.pooling!r} is neither bounded nor free": self.pooling in {"bounded", "free"},
            "region_size must be at least 2": self.region_size >= 2,
            "d_model must be even": self.d_model % 2 == 0,
            "d_model must be a multiple of num_heads": self.d_model % max(self.num_heads, 1) == 0,
            "cmm_dim must equal d_model": self.cmm_dim == self.d_model,
            "topk must not exceed cmm_size": self.topk <= self.cmm_size,
            "dropouts must lie in [0, 1)": 0 <= self.dropout < 1 and 0 <= self.feature_dropout < 1,
        }
        return next((text for text, holds in checks.items() if not holds), "")

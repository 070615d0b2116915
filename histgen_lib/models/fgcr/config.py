"""The sizes and behaviour of an FGCR network, and their JSON form. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from histgen_lib.errors import InvalidInputError

Mode = Literal["published", "corrected"]

MOST_REGIONS = 25
"""Regions of a slide at most (the published `num_kernel`)."""


@dataclass(frozen=True)
class FgcrConfig:
    """Sizes and behaviour of an FGCR network; the defaults are the published training settings.

    `mode` is "published" (numerically what the authors' code computes; vectors have width `dim`) or
    "corrected" (alignment trains the vectors that retrieval compares, of width `embed_dim`; regions start
    from what lies in them; soft masks are renormalised; words to be guessed are hidden from all).
    `dim_head` is the width of one of the slide encoder's `heads`. `num_anchors` is how many anchors a
    published network's slide has at most, `anchors_a_scale` how many a corrected one's has at each scale, the
    finest first.
    `vocab_size` counts all ids, the padding 0 among them; `max_words` is the longest text, in words.
    `prompt_num` is how many prompts are told apart. `temperature` is what the learned one starts from.
    """

    mode: Mode = "corrected"
    input_dim: int = 2048
    dim: int = 256
    depth: int = 6
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int = 512
    num_anchors: int = MOST_REGIONS
    anchors_a_scale: tuple[int, ...] = (16, 6, 3)
    vocab_size: int = 300
    word_dim: int = 128
    text_heads: int = 4
    text_layers: int = 6
    text_ff: int = 512
    max_words: int = 175
    prompt_num: int = 25
    embed_dim: int = 256
    temperature: float = 0.07
    dropout: float = 0.5
    text_dropout: float = 0.5

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InvalidInputError(
                "model-config", f"These FGCR sizes cannot be built: {problem}.", hint="Correct the config."
            )

    @property
    def corrected(self) -> bool:
        """Whether this is the corrected mode."""
        return self.mode == "corrected"

    @property
    def vector_dim(self) -> int:
        """Width of the vectors that retrieval compares."""
        return self.embed_dim if self.corrected else self.dim

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the part "network" of the section "retrieval" of config.json."""
        return asdict(self) | {"anchors_a_scale": list(self.anchors_a_scale)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FgcrConfig:
        """Invert `to_json`. Raises InvalidInputError("model-config") for unknown names and wrong values."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InvalidInputError(
                "model-config",
                f"Unknown FGCR settings: {', '.join(unknown)}.",
                hint="A newer version may have written this model: update histgen.",
            )
        listed = {"anchors_a_scale": tuple(values["anchors_a_scale"])} if "anchors_a_scale" in values else {}
        return cls(**{**values, **listed})

    def _problem(self) -> str:
        whole = [f.name for f in fields(self) if f.type == "int"]
        small = [name for name in whole if not _positive(getattr(self, name))]
        if small:
            return f"{', '.join(small)} must be whole numbers, at least 1"
        checks = {
            f"mode {self.mode!r} is neither published nor corrected": self.mode in get_args(Mode),
            "dim must be a multiple of text_heads": self.dim % self.text_heads == 0,
            "dim must be a multiple of heads": self.dim % self.heads == 0,
            "dim_head may be dim only with one head": self.dim_head != self.dim or self.heads == 1,
            "vocab_size must be at least 2": self.vocab_size >= 2,
            "temperature must be positive": self.temperature > 0,
            "dropouts must lie in [0, 1)": 0 <= self.dropout < 1 and 0 <= self.text_dropout < 1,
            "anchors_a_scale must be numbers of at least 1": self._scales_hold(),
            f"a slide has at most {MOST_REGIONS} anchors": sum(self.anchors_a_scale) <= MOST_REGIONS,
        }
        return next((text for text, holds in checks.items() if not holds), "")

    def _scales_hold(self) -> bool:
        return bool(self.anchors_a_scale) and all(map(_positive, self.anchors_a_scale))


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

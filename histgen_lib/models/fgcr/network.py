"""FGCR: slides, regions of slides and texts as unit vectors of one space, so that cosines compare them.

Hu, Jiang, Shi, Xie, Wu, Zheng: "Histopathology language-image representation learning for fine-grained
digital pathology cross-modal retrieval", Medical Image Analysis 95 (2024). The authors' code is
hudingyi/FGCR.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.fgcr.attention import Attention, KernelBlock, Streams, reach
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.text_encoder import TextEncoder, WordGuess

_START_BIAS = -2.0
"""What the learned offset of a prompt's presence starts from: most prompts are not there."""

_MOST_SCALE = 100.0


class Slides(NamedTuple):
    """Slides, padded to the longest; `histgen_lib.models.fgcr.batches` makes one.

    features     float32[B, N, D]
    tile_mask    bool[B, N]; each slide's first tile is real
    anchors      int64[B, R], rows of the anchors among the tiles
    scales       int64[B, R]
    anchor_mask  bool[B, R]
    soft_mask    float32[B, R, N]
    """

    features: Tensor
    tile_mask: Tensor
    anchors: Tensor
    scales: Tensor
    anchor_mask: Tensor
    soft_mask: Tensor


class Texts(NamedTuple):
    """Texts, padded to the longest: tokens int64[B, T], mask bool[B, T]."""

    tokens: Tensor
    mask: Tensor


class SlideOutput(NamedTuple):
    """Slides as the network sees them.

    vector   [B, v], of unit length
    regions  [B, R, v], of unit length; 0 for padding
    whole    [B, d], the class embedding
    layers   depth times [B, R, d], the anchors after each layer; 0 for padding
    """

    vector: Tensor
    regions: Tensor
    whole: Tensor
    layers: tuple[Tensor, ...]


class TextOutput(NamedTuple):
    """Texts as the network sees them.

    vector   [B, v], of unit length
    whole    [B, d], the class embedding
    words    [B, T, d]
    entered  [B, 1 + T, d], what the layers read
    """

    vector: Tensor
    whole: Tensor
    words: Tensor
    entered: Tensor


class Embedded(NamedTuple):
    """Unit vectors of one space: slides [B, v], their regions [B, R, v] (0 for padding), texts [B, v]."""

    slides: Tensor
    regions: Tensor
    texts: Tensor


class Projection(nn.Module):
    """Into the space in which slides, regions and texts are compared: [..., d] -> unit vectors [..., v]."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.map = nn.Linear(config.dim, config.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project."""
        return functional.normalize(self.map(self.norm(x)), dim=-1)


class Fgcr(nn.Module):
    """The whole network, in either mode. Padding changes no output."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.config = config
        self.tile_map = nn.Linear(config.input_dim, config.dim)
        self.whole_token = nn.Parameter(torch.randn(config.dim))
        self.anchor_token = nn.Parameter(torch.randn(config.dim))
        self.blocks = nn.ModuleList(KernelBlock(config) for _ in range(config.depth))
        self.text = TextEncoder(config)
        self.word_guess = WordGuess(config)
        self.local_attention = Attention(config.dim, config.heads)
        self.prompt_norm = nn.LayerNorm(config.dim)
        self.prompt_scores = nn.Linear(config.dim, config.prompt_num)
        if config.corrected:
            self.scale_embed = nn.Embedding(len(config.anchors_a_scale), config.dim)
            self.slide_projection = Projection(config)
            self.region_projection = Projection(config)
            self.text_projection = Projection(config)
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
            self.presence_bias = nn.Parameter(torch.tensor(_START_BIAS))

    def forward(self, slides: Slides, texts: Texts) -> Embedded:
        """Embed slides with their regions, and texts."""
        seen = self.see(slides)
        return Embedded(seen.vector, seen.regions, self.read(texts).vector)

    def see(self, slides: Slides) -> SlideOutput:
        """Encode slides."""
        streams, layers = self._start(slides), []
        hard_mask = slides.anchor_mask.unsqueeze(2)
        pairs = reach(slides.soft_mask, slides.tile_mask, slides.anchor_mask)
        for block in self.blocks:
            streams = block(streams, pairs)
            layers.append(streams.anchors * hard_mask)
        whole = streams.whole[:, 0]
        if not self.config.corrected:
            whole = whole.tanh()
            return SlideOutput(_unit(whole), _unit(layers[-1]), whole, tuple(layers))
        regions = self.region_projection(layers[-1]) * hard_mask
        return SlideOutput(self.slide_projection(whole), regions, whole, tuple(layers))

    def read(self, texts: Texts) -> TextOutput:
        """Encode texts: reports, sentences, queries, and in a corrected network prompts, too."""
        entered = self.text.enter(texts.tokens)
        read = self.text.read(entered, texts.mask)
        whole, words = read[:, 0], read[:, 1:]
        if not self.config.corrected:
            whole = whole.tanh()
            return TextOutput(_unit(whole), whole, words, entered)
        visible = functional.pad(texts.mask, (1, 0), value=True).unsqueeze(2)
        mean = (read * visible).sum(dim=1) / visible.sum(dim=1)
        return TextOutput(self.text_projection(mean), mean, words, entered)

    def prompts(self, whole: Tensor) -> Tensor:
        """Return scores [B, P] of the prompts for class embeddings [B, d] of slides or texts."""
        scores: Tensor = self.prompt_scores(self.prompt_norm(whole))
        return scores

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by in a corrected network's losses: 1 / temperature, at most 100."""
        return self.log_scale.exp().clamp(max=_MOST_SCALE)

    def _start(self, slides: Slides) -> Streams:
        tiles = self.tile_map(slides.features)
        batch, count = slides.anchors.shape
        anchors = self.anchor_token.expand(batch, count, -1)
        whole = self.whole_token.expand(batch, 1, -1)
        if not self.config.corrected:
            return Streams(tiles, anchors, whole)
        real = slides.tile_mask.unsqueeze(1).to(tiles.dtype)
        own = torch.gather(tiles, 1, slides.anchors.unsqueeze(2).expand(-1, -1, tiles.shape[2]))
        near = (_shares(slides.soft_mask * real) @ tiles + own) / 2
        return Streams(tiles, anchors + self.scale_embed(slides.scales) + near, whole + _shares(real) @ tiles)


def _shares(weights: Tensor) -> Tensor:
    """Divide weights [..., N] by their sum; those of padding, which are 0, stay so."""
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-6)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1)

"""The report network as graphs for ONNX Runtime on a CPU, cut where something is selected.

A slide is encoded some regions at a time, so that what is computed at once fits a core's cache, and memory
grows with the number of tiles only. `histgen_lib.models.histgen.on_cpu` runs the graphs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoder import DecoderBlock
from histgen_lib.models.histgen.encoder import RegionPooling
from histgen_lib.models.histgen.folded import (
    Thinking,
    chained,
    copied,
    fixed,
    plain_norm,
    scaled_query,
    side_by_side,
)
from histgen_lib.models.histgen.layers import Attention, EncoderBlock, position_code
from histgen_lib.models.histgen.network import HistGen


class FusedAttention(torch.autograd.Function):
    """ONNX Runtime's attention as one operator, which never holds all weights of a long row at once.

    Exists in graphs only: to trace it, its output's shape is enough.
    """

    @staticmethod
    def forward(
        ctx: Any, heads: int, queries: Tensor, keys: Tensor, values: Tensor, *masked: Tensor
    ) -> Tensor:
        """Attend with queries [G, T, d] to keys and values [G, S, d]: [G, T, d].

        `masked`: biases float[3d] of all three, and int32[G, S], 0 at what is not attended to.
        """
        return torch.empty_like(queries)

    @staticmethod
    def symbolic(graph: Any, heads: int, *tensors: Any) -> Any:
        """Write the operator."""
        found = graph.op("com.microsoft::MultiHeadAttention", *tensors, num_heads_i=heads)
        found.setType(tensors[0].type())
        return found


class PrototypesGraph(nn.Module):
    """Prototype tiles float32[K, D] -> each head's scores float32[K, S] of the shared memory's slots."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.embed = chained(model.feature_map, model.feature_embed)
        self.slots = _Scores(model.memory_attention, model.memory)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Score the slots."""
        scores: tuple[Tensor, ...] = self.slots(functional.relu(self.embed(features)))
        return scores


class ContextGraph(nn.Module):
    """Scores of the prototypes, each head's float32[K, S] -> keys, values float32[1, K, d] for all tiles."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.slots = _Recall(model.memory_attention, model.memory)
        self.key = copied(model.prototype_attention.key)
        self.value = copied(model.prototype_attention.value)

    def forward(self, *selected: Tensor) -> tuple[Tensor, Tensor]:
        """Recall what the prototypes look for: each head's scores, then bool[K, S], what to drop of them."""
        heads = len(selected) // 2
        recalled = self.slots(list(map(_shares, selected[:heads], selected[heads:])))
        return self.key(recalled)[None], self.value(recalled)[None]


class RegionsGraph(nn.Module):
    """Some regions' tiles, and the prototypes' keys and values -> their positions after the first block."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        config, encoder = model.config, model.encoder
        self.shape = (-1, config.region_size, config.d_model)
        self.heads = config.num_heads
        self.embed = chained(model.feature_map, model.feature_embed)
        self.query = copied(model.prototype_attention.query)
        self.output = copied(model.prototype_attention.output)
        offsets = position_code(torch.arange(config.region_size), config.d_model)
        offsets[-1] += encoder.region_token
        self.offsets = fixed(offsets)
        self.block = _Block(encoder.region_blocks[0], config)

    def forward(self, tiles: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Compute positions float32[G, P+1, d].

        tiles float32[G·(P+1), D], anything at padding and at the token; mask float32[G, P+1], 1 at tiles and
        0 elsewhere; keys and values float32[1, K, d].
        """
        x = functional.relu(self.embed(tiles))
        seen = FusedAttention.apply(self.heads, self.query(x)[None], keys, values)
        x = (x + self.output(seen[0])).reshape(self.shape)
        x = x * mask.unsqueeze(-1) + self.offsets
        found: Tensor = self.block(x, _attended(mask))
        return found


class SlideGraph(nn.Module):
    """What each region says float32[R, d], and rows int64[M] of those to hear -> what they hear [M, d]."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        block = model.encoder.slide_block
        self.heads, self.width = block.attention.heads, model.config.d_model
        self.norm = plain_norm(block.norms[0])
        self.maps = nn.ModuleList(map(copied, _maps(block.attention)))
        self.output = copied(block.attention.output)
        self.think = Thinking(block.norms[1], block.feed_forward)

    def forward(self, spoken: Tensor, rows: Tensor) -> Tensor:
        """Let some regions attend to all."""
        x = spoken + position_code(torch.arange(spoken.shape[0]), self.width)
        hearing = x.index_select(0, rows)
        query, key, value = self.maps
        seen = self.norm(x)
        asked = query(self.norm(hearing))
        heard = FusedAttention.apply(self.heads, asked[None], key(seen)[None], value(seen)[None])
        thought: Tensor = self.think(hearing + self.output(heard[0]))
        return thought


class PoolingGraph(nn.Module):
    """Some regions' positions -> the weights of their tiles, and the decoder's keys and values of them."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        config, encoder = model.config, model.encoder
        self.offsets = fixed(position_code(torch.arange(config.region_size), config.d_model))
        self.block = _Block(encoder.region_blocks[1], config)
        self.norm = plain_norm(encoder.norm)
        self.pooling = _Pooling(encoder.pooling)
        blocks = _decoder_blocks(model)
        self.cross = side_by_side(
            *(one for block in blocks for one in (block.region_attention.key, block.region_attention.value))
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Positions float32[G, P+1, d], mask float32[G, P+1] -> tile_weights [G, P], cross [G, 2·L·d]."""
        x = self.block(x + self.offsets, _attended(mask))
        pooled, weights = self.pooling(self.norm(x), mask)
        shares = weights[:, :-1] * mask[:, :-1]
        return shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-12), self.cross(pooled)


class WordsGraph(nn.Module):
    """Words int64[M] at a place int64[1] -> embedded [M, d], and scores float32[h, M, S] of the slots.

    Here and in `RecallGraph` a word's bits do not depend on the words beside it, nor on how many they are:
    every product is one of rows with a constant matrix, which ONNX Runtime lays out for the processor when
    it loads the graph, and its kernels for such a matrix sum each row over the same entries in the same
    order, one row or many. A test compares the bits.
    """

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.width = model.config.d_model
        self.words = fixed(model.word_embed.weight * math.sqrt(self.width))
        self.slots = _Scores(model.memory_attention, model.memory)

    def forward(self, tokens: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Embed words and score the slots."""
        x = self.words.index_select(0, tokens) + position_code(place, self.width)
        return x, torch.cat(self.slots(x[None]))


class RecallGraph(nn.Module):
    """Embedded words [M, d] and their scores float32[h, M, S] -> the words as the decoder takes them."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.slots = _Recall(model.memory_attention, model.memory)

    def forward(self, embedded: Tensor, scores: Tensor, dropped: Tensor) -> Tensor:
        """Add what the words recall; slots in `dropped` bool[h, M, S] do not count."""
        words: Tensor = embedded + self.slots(torch.split(_shares(scores, dropped), 1))[0]
        return words


class StepGraph(nn.Module):
    """One decoding step of one slide's beams, over a cache that all of them share.

    The cache holds what any beam has said, and `bias` float32[B, 1, 1, C] says who said what: 0 at a beam's
    own words, −inf elsewhere. So a beam changes its past without a copy.
    """

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(_Layer, _decoder_blocks(model)))
        self.norm = plain_norm(model.decoder.norm)
        self.logit = copied(model.logit)

    def forward(self, words: Tensor, bias: Tensor, *memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feed words float32[B, d].

        memory, for each layer: keys [h, k, C] and values [h, C, k] of the words before, then keys [h, k, R]
        and values [h, R, k] of the regions.
        Returns log_probs [B, V+1], attention [B, R] (the last layer's, mean over heads), and present
        [B, 2·L·d], the words' own keys and values of each layer.
        """
        x, attention = words, bias
        present: list[Tensor] = []
        for place, layer in enumerate(self.layers):
            x, own, attention = layer(x, bias, *memory[4 * place : 4 * place + 4])
            present += own
        log_probs = functional.log_softmax(self.logit(self.norm(x)), dim=-1)
        return log_probs, attention, torch.cat(present, dim=1)


class _Scores(nn.Module):
    """Scores of the shared memory's slots, each head's [..., M, S], by one constant matrix a head."""

    def __init__(self, attention: Attention, memory: Tensor) -> None:
        super().__init__()
        self.query = scaled_query(attention)
        keys = attention.split(attention.key(memory)).transpose(-1, -2)
        self.keys = nn.ParameterList(map(fixed, keys))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        queries = self.query(x).split(len(self.keys[0]), dim=-1)
        return tuple(part @ keys for part, keys in zip(queries, self.keys, strict=True))


class _Recall(nn.Module):
    """What the shared memory answers [..., M, d] to each head's shares [..., M, S] of its slots."""

    def __init__(self, attention: Attention, memory: Tensor) -> None:
        super().__init__()
        self.values = nn.ParameterList(map(fixed, attention.split(attention.value(memory))))
        self.output = copied(attention.output)

    def forward(self, shares: Sequence[Tensor]) -> Tensor:
        mixed = [part @ values for part, values in zip(shares, self.values, strict=True)]
        recalled: Tensor = self.output(torch.cat(mixed, dim=-1))
        return recalled


def _shares(scores: Tensor, dropped: Tensor) -> Tensor:
    """Softmax [..., S] over the slots that are not dropped."""
    return torch.where(dropped, -math.inf, scores).softmax(dim=-1)


class _Block(nn.Module):
    """An encoder block over regions [G, T, d]; `attended` int32[G, T] is 0 at padding."""

    def __init__(self, block: nn.Module, config: HistGenConfig) -> None:
        super().__init__()
        assert isinstance(block, EncoderBlock)  # a ModuleList forgets what it holds
        attention = block.attention
        self.heads, self.width = attention.heads, config.d_model
        self.shape = (-1, config.region_size, config.d_model)
        self.norm = plain_norm(block.norms[0])
        self.maps = nn.ModuleList(_without_bias(one) for one in _maps(attention))
        self.biases = fixed(torch.cat([one.bias for one in _maps(attention)]))
        self.output = copied(attention.output)
        self.think = Thinking(block.norms[1], block.feed_forward)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        flat = x.reshape(-1, self.width)
        seen = self.norm(flat)
        asked, keys, values = (one(seen).reshape(self.shape) for one in self.maps)
        mixed = FusedAttention.apply(self.heads, asked, keys, values, self.biases, attended)
        thought: Tensor = self.think(flat + self.output(mixed.reshape(-1, self.width)))
        return thought.reshape(self.shape)


class _Pooling(nn.Module):
    """`RegionPooling`, with the score's two linear maps as one where nothing is between them."""

    def __init__(self, pooling: RegionPooling) -> None:
        super().__init__()
        config = pooling.config
        self.size, self.width = config.region_size, config.d_model
        self.bounded = config.pooling == "bounded"
        self.masked = config.mode == "corrected"
        self.project = nn.Identity() if self.bounded else copied(pooling.project)
        self.score = chained(pooling.project, pooling.score) if self.bounded else copied(pooling.score)
        self.dense = copied(pooling.dense)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [G, P+1, d], mask float32[G, P+1] -> pooled [G, d], weights [G, P+1]."""
        flat = x.reshape(-1, self.width)
        scores = torch.tanh(self.score(flat)) if self.bounded else self.score(torch.tanh(self.project(flat)))
        scores = scores.reshape(-1, self.size)
        if self.masked:
            scores = scores.masked_fill(_attended(mask) == 0, -math.inf)
        weights = scores.softmax(dim=-1)
        pooled = (weights.unsqueeze(-2) @ x).squeeze(-2)
        return torch.tanh(self.dense(pooled)), weights


class _Layer(nn.Module):
    """A decoder block for one word of each of B beams."""

    def __init__(self, block: DecoderBlock) -> None:
        super().__init__()
        back, across = block.self_attention, block.region_attention
        self.width = back.query.out_features
        self.shape = (-1, back.heads, 1, self.width // back.heads)
        self.back_norm, self.across_norm = map(plain_norm, list(block.norms)[:2])
        self.query, self.back = scaled_query(back), copied(back.output)
        self.key, self.value = copied(back.key), copied(back.value)
        self.across_query, self.across = scaled_query(across), copied(across.output)
        self.think = Thinking(block.norms[2], block.feed_forward)

    def forward(self, x: Tensor, bias: Tensor, *memory: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """`bias` and the layer's part of `memory` are as `StepGraph` takes them."""
        seen = self.back_norm(x)
        own = [self.key(seen), self.value(seen)]
        x = x + self.back(self._look_back(self.query(seen), own, bias, memory))
        queries = self.across_query(self.across_norm(x)).reshape(self.shape)
        weights = (queries @ memory[2]).softmax(dim=-1)
        x = x + self.across((weights @ memory[3]).reshape(-1, self.width))
        return self.think(x), own, weights.mean(dim=1)[:, 0]

    def _look_back(
        self, queries: Tensor, own: list[Tensor], bias: Tensor, memory: tuple[Tensor, ...]
    ) -> Tensor:
        """Attend to the words before, and to the word itself, which is not in the cache yet."""
        asked, key, value = (part.reshape(self.shape) for part in (queries, *own))
        itself = (asked * key).sum(dim=-1, keepdim=True)
        weights = torch.cat([itself, asked @ memory[0] + bias], dim=-1).softmax(dim=-1)
        mixed = weights[..., 1:] @ memory[1] + weights[..., :1] * value
        return mixed.reshape(-1, self.width)


def _attended(mask: Tensor) -> Tensor:
    """int32[G, P+1]: 1 at tiles and at the region's token, which is always last."""
    return functional.pad(mask[:, :-1], (0, 1), value=1.0).int()


def _maps(attention: Attention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return attention.query, attention.key, attention.value


def _without_bias(one: nn.Linear) -> nn.Linear:
    bare = nn.Linear(one.in_features, one.out_features, bias=False, device="meta")
    bare.weight = fixed(one.weight)
    return bare


def _decoder_blocks(model: HistGen) -> list[DecoderBlock]:
    return [block for block in model.decoder.blocks if isinstance(block, DecoderBlock)]

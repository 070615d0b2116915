"""HistGen for a device with memory of its own: the slide's encoder, and one step of beam search.

Both are exported to ONNX and run by torch. `.half()` and `.bfloat16()` put them wholly into that type: only
norms' statistics, softmax, and what leaves the device stay float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen.decoder import DecoderBlock
from histgen_lib.models.histgen.decoding import END, FINISHED_PENALTY
from histgen_lib.models.histgen.encoder import RegionPooling, tile_shares
from histgen_lib.models.histgen.folded import (
    Thinking,
    chained,
    copied,
    fixed,
    plain_norm,
    queries_keys_values,
    scaled_query,
    side_by_side,
)
from histgen_lib.models.histgen.layers import (
    Attention,
    EncoderBlock,
    MemoryAttention,
    position_code,
)
from histgen_lib.models.histgen.network import HistGen

_TABLE_ROWS = 2048
"""Words embedded at once for a table: their scores over the slots take 16 kB a head and word."""


class DeviceEncoder(nn.Module):
    """One slide: from its tiles, in any order, to their shares in regions and the decoder's cross memory."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        config, encoder = model.config, model.encoder
        self.config = config
        self.embed = chained(model.feature_map, model.feature_embed)
        self.recall = Recall(model.memory_attention, model.memory)
        self.prototype_attention = _CrossAttention(model.prototype_attention)
        blocks = [block for block in encoder.region_blocks if isinstance(block, EncoderBlock)]
        self.region_blocks = nn.ModuleList(map(_Block, blocks))
        self.slide_block = _Block(encoder.slide_block)
        self.region_token = fixed(encoder.region_token)
        code = position_code(torch.arange(config.region_size), config.d_model)
        self.places = fixed(code.to(encoder.region_token))
        self.norm = plain_norm(encoder.norm)
        self.pooling = _Pooling(encoder.pooling)
        self.cross = side_by_side(*_maps_of_regions(model))

    def forward(
        self, features: Tensor, rows: Tensor, mask: Tensor, prototypes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode one slide.

        features [N, D] of any float type; rows int64[R, P], the tile at each place of each region (any row
        at padding); mask bool[R, P], True at tiles; prototypes int64[K], rows of `features`.
        Returns tile_weights float32[R, P], rows of real regions sum to 1, and cross [L, 2, 1, h, R, k].
        """
        x = self.add_context(self.embed_tiles(features), prototypes)
        return self.encode_regions(x, rows, mask)

    def embed_tiles(self, features: Tensor) -> Tensor:
        """Embed tiles [N, D] -> [N, d]."""
        return functional.relu(self.embed(features.to(self.embed.weight.dtype)))

    def add_context(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """Add to all tiles [N, d] what the prototype tiles recall from the shared memory."""
        recalled = self.recall(x.index_select(0, prototypes))
        added: Tensor = x + self.prototype_attention(x, recalled)
        return added

    def encode_regions(self, x: Tensor, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles [N, d] in input order -> tile weights and cross memory, as `forward`."""
        c = self.config
        tiles = x.index_select(0, rows.flatten()).reshape(-1, c.tiles_per_region, c.d_model)
        tiles = tiles * mask.unsqueeze(-1).to(x.dtype)
        x = torch.cat([tiles, self.region_token.expand(tiles.shape[0], 1, c.d_model)], dim=1)
        valid = functional.pad(mask, (0, 1), value=True)
        x = self.region_blocks[0](x + self.places, valid)
        x = self._across_regions(x, mask)
        for block in list(self.region_blocks)[1:]:
            x = block(x + self.places, valid)
        regions, weights = self.pooling(self.norm(x), valid)
        return tile_shares(weights, mask), self._cross_memory(regions)

    def _across_regions(self, x: Tensor, mask: Tensor) -> Tensor:
        first = self.config.mode == "published"
        spoken = x[:, 0] if first else x[:, -1]
        order = torch.arange(x.shape[0], device=x.device)
        placed = spoken + position_code(order, self.config.d_model).to(x.dtype)
        heard = self.slide_block(placed.unsqueeze(0), mask.any(dim=-1).unsqueeze(0)).transpose(0, 1)
        return torch.cat([heard, x[:, 1:]] if first else [x[:, :-1], heard], dim=1)

    def _cross_memory(self, regions: Tensor) -> Tensor:
        c = self.config
        pairs: Tensor = self.cross(regions)
        pairs = pairs.reshape(-1, c.num_layers, 2, c.num_heads, c.d_model // c.num_heads)
        return pairs.permute(1, 2, 3, 0, 4).unsqueeze(2).contiguous()


class BeamStep(nn.Module):
    """One step of beam search: words and their choice on the device, in a cache of fixed size.

    Equal to one round of `histgen_lib.models.histgen.decoding`'s search, except that ties are broken as the
    device likes. `beams` must not exceed the V+1 words.
    """

    def __init__(
        self, model: HistGen, beams: int, max_tokens: int, words: Words | WordTable | None = None
    ) -> None:
        """Take the network's parameters; `words`: those of another step, to share their memory."""
        super().__init__()
        self.config, self.beams, self.max_tokens = model.config, beams, max_tokens
        self.embed: Words | WordTable = words or Words(model, max_tokens)
        blocks = [block for block in model.decoder.blocks if isinstance(block, DecoderBlock)]
        self.layers = nn.ModuleList(map(_Layer, blocks))
        self.norm = plain_norm(model.decoder.norm)
        self.logit = copied(model.logit)

    def forward(  # noqa: PLR0917 -- the inputs of a graph
        self,
        tokens: Tensor,
        parents: Tensor,
        scores: Tensor,
        place: Tensor,
        past: Tensor,
        cross: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Feed a word to each of S slides' B beams, and choose each slide's best B continuations.

        tokens int64[S, B], the words; parents int64[S, B], the beams of `past` that they continue; scores
        float32[S, B], of the beams with these words; place int64[1], words before these; past
        [L, 2, S, B, h, T, k], keys and values of the words before (anything from `place` on, if finite);
        cross [L, 2, S, h, R, k]; valid bool[S, R]. For the first word: tokens 0, parents 0…B−1, scores 0 for
        one beam and −inf for the rest.

        Returns tokens, parents and scores of the continuations as the next step takes them (scores of those
        that end here lowered by FINISHED_PENALTY; at `place` max_tokens−1 all end); chosen float32[S, B],
        their log-probabilities; attention float32[S, B, R] of the beams fed; present, the longer cache;
        log_probs float32[S, B, V+1].
        """
        past = self._follow(past, parents)
        log_probs, attention, present = self._look(tokens, place, past, cross, valid)
        chosen = self._choose(scores, log_probs, place)
        return (*chosen, attention, present, log_probs)

    def _follow(self, past: Tensor, parents: Tensor) -> Tensor:
        """Reorder the cache: [L, 2, S, B, h, T, k] -> [L, 2, S·B, h, T, k]."""
        layers, _, _, _, heads, limit, width = past.shape
        firsts = torch.arange(parents.shape[0], device=parents.device).unsqueeze(1) * self.beams
        return past.reshape(layers, 2, -1, heads, limit, width).index_select(2, (firsts + parents).flatten())

    def _look(
        self, tokens: Tensor, place: Tensor, past: Tensor, cross: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embed(tokens.flatten(), place)
        at = torch.arange(past.shape[-2], device=place.device)
        unseen = barred(at <= place, x.dtype)[None, None, None]
        here = (at == place).unsqueeze(-1)
        hidden = barred(valid, x.dtype)[:, None, None, :]
        kept = []
        for layer, block in enumerate(self.layers):
            assert isinstance(block, _Layer)
            x, longer = block.look_back(x, past[layer], here, unseen)
            kept.append(longer)
            queries = block.ask_regions(x, self.beams)
            if layer < len(self.layers) - 1:
                mixed = attend(queries, cross[layer][0], cross[layer][1], hidden)
            else:  # its attention is evidence
                weights = (queries @ cross[layer][0].transpose(-1, -2) + hidden).float().softmax(dim=-1)
                mixed = weights.to(x.dtype) @ cross[layer][1]
            x = block.think(block.hear_regions(x, mixed))
        log_probs: Tensor = self.logit(self.norm(x)).float().log_softmax(dim=-1)
        layers, _, _, heads, limit, width = past.shape
        present = torch.stack(kept).reshape(layers, 2, -1, self.beams, heads, limit, width)
        return log_probs.reshape(-1, self.beams, log_probs.shape[-1]), weights.mean(dim=1), present

    def _choose(
        self, scores: Tensor, log_probs: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        words = log_probs.shape[-1]
        summed = (scores.unsqueeze(-1) + log_probs).flatten(1)
        best, order = summed.topk(self.beams, dim=-1)
        chosen = log_probs.flatten(1).gather(1, order)
        parents = torch.div(order, words, rounding_mode="trunc")
        tokens = order - parents * words
        ended = (tokens == END) | (place == self.max_tokens - 1)
        lowered = best - ended.to(best.dtype) * float(FINISHED_PENALTY)
        return tokens, parents, lowered, chosen


class Words(nn.Module):
    """Words at a place, with what they recall from the shared memory."""

    def __init__(self, model: HistGen, max_tokens: int) -> None:
        super().__init__()
        d = model.config.d_model
        self.words = fixed(model.word_embed.weight * math.sqrt(d))
        self.places = fixed(position_code(torch.arange(max_tokens), d).to(model.memory))
        self.recall = Recall(model.memory_attention, model.memory)

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Words int64[M] at place int64[1] (or places int64[M]) -> [M, d]."""
        x = self.words.index_select(0, tokens) + self.places.index_select(0, place)
        recalled: Tensor = x + self.recall(x)
        return recalled


class WordTable(nn.Module):
    """What `Words` computes, looked up: nothing in it depends on the slide or on the text before."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.limit = len(words.places)
        numbers = torch.arange(len(words.words) * self.limit, device=words.words.device)
        rows = [words(part // self.limit, part % self.limit) for part in torch.split(numbers, _TABLE_ROWS)]
        self.rows = fixed(torch.cat(rows))

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Words int64[M] at place int64[1] -> [M, d]."""
        return self.rows.index_select(0, tokens * self.limit + place)


class Recall(nn.Module):
    """The response of the shared memory, whose keys and values are constants here.

    Slots that tie with a query's `topk`-th best are kept as well: in float16 that adds one now and then.
    """

    def __init__(self, attention: MemoryAttention, memory: Tensor) -> None:
        super().__init__()
        self.heads, self.topk = attention.heads, attention.topk
        self.query = scaled_query(attention)
        keys, values = attention.keys_values(memory)
        self.keys, self.values = fixed(keys.transpose(-1, -2)), fixed(values)
        self.output = copied(attention.output)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [M, d] -> responses [M, d]."""
        scores = (_heads(self.query(x), self.heads) @ self.keys).float()
        if self.topk < scores.shape[-1]:
            least = scores.topk(self.topk, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
            scores = scores.masked_fill(scores < least, -math.inf)
        mixed = scores.softmax(dim=-1).to(x.dtype) @ self.values
        response: Tensor = self.output(mixed.transpose(0, 1).flatten(1))
        return response


class _CrossAttention(nn.Module):
    """All tiles [N, d] attend to the prototypes' responses [K, d]."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query = scaled_query(attention)
        self.pairs = side_by_side(attention.key, attention.value)
        self.output = copied(attention.output)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        keys, values = (_heads(half, self.heads) for half in self.pairs(memory).chunk(2, dim=-1))
        mixed = attend(_heads(self.query(x), self.heads)[None], keys[None], values[None])[0]
        response: Tensor = self.output(mixed.transpose(0, 1).flatten(1))
        return response


class _Block(nn.Module):
    """An encoder block: x [G, T, d], valid bool[G, T]."""

    def __init__(self, block: EncoderBlock) -> None:
        super().__init__()
        self.heads = block.attention.heads
        self.norm = plain_norm(block.norms[0])
        self.triples = queries_keys_values(block.attention)
        self.output = copied(block.attention.output)
        self.think = Thinking(block.norms[1], block.feed_forward)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        _, length, width = x.shape
        triples = self.triples(self.norm(x)).reshape(-1, length, 3, self.heads, width // self.heads)
        queries, keys, values = triples.permute(2, 0, 3, 1, 4)
        mixed = attend(queries, keys, values, barred(valid, x.dtype)[:, None, None, :])
        thought: Tensor = self.think(x + self.output(mixed.transpose(1, 2).flatten(2)))
        return thought


class _Layer(nn.Module):
    """A decoder block for one word of each of M = S·B beams."""

    def __init__(self, block: DecoderBlock) -> None:
        super().__init__()
        back, across = block.self_attention, block.region_attention
        self.heads = back.heads
        self.norms = nn.ModuleList(map(plain_norm, list(block.norms)[:2]))
        self.triples, self.back = queries_keys_values(back), copied(back.output)
        self.query, self.across = scaled_query(across), copied(across.output)
        self.think = Thinking(block.norms[2], block.feed_forward)

    def look_back(self, x: Tensor, past: Tensor, here: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """X [M, d], past [2, M, h, T, k]; `here` bool[T, 1] marks the word's place -> x, longer past."""
        triples = self.triples(self.norms[0](x)).reshape(-1, 3, self.heads, 1, past.shape[-1])
        queries, pair = triples[:, 0], triples[:, 1:].transpose(0, 1)
        past = torch.where(here, pair, past)
        mixed = attend(queries, past[0], past[1], unseen)
        return x + self.back(mixed.flatten(1)), past

    def ask_regions(self, x: Tensor, beams: int) -> Tensor:
        """Make queries [S, h, B, k] of x [M, d]: a slide's beams share its keys and values without copies."""
        queries: Tensor = self.query(self.norms[1](x))
        return queries.reshape(-1, beams, self.heads, x.shape[-1] // self.heads).transpose(1, 2)

    def hear_regions(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add to x [M, d] what its queries found: [S, h, B, k]."""
        heard: Tensor = x + self.across(mixed.transpose(1, 2).reshape(x.shape))
        return heard


class _Pooling(nn.Module):
    """`RegionPooling`, with the score's two linear maps as one where nothing is between them."""

    def __init__(self, pooling: RegionPooling) -> None:
        super().__init__()
        self.bounded = pooling.config.pooling == "bounded"
        self.masked = pooling.config.mode == "corrected"
        self.project = nn.Identity() if self.bounded else copied(pooling.project)
        self.score = chained(pooling.project, pooling.score) if self.bounded else copied(pooling.score)
        self.dense = copied(pooling.dense)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [R, P+1, d], valid bool[R, P+1] -> pooled [R, d], weights float32[R, P+1]."""
        scores = torch.tanh(self.score(x)) if self.bounded else self.score(torch.tanh(self.project(x)))
        scores = scores.squeeze(-1).float()
        if self.masked:
            scores = scores.masked_fill(~valid, -math.inf)
        weights = scores.softmax(dim=-1)
        pooled = (weights.to(x.dtype).unsqueeze(-2) @ x).squeeze(-2)
        return torch.tanh(self.dense(pooled)), weights


def attend(queries: Tensor, keys: Tensor, values: Tensor, added: Tensor | None = None) -> Tensor:
    """Attention of scaled queries [B, h, T, k] to keys and values [B, h, S, k]; `added` to the scores.

    Torch has one fused kernel for it. In a graph it is spelt out, with the softmax in float32.
    """
    if not torch.onnx.is_in_onnx_export():
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)
    scores = (queries @ keys.transpose(-1, -2)).float()
    if added is not None:
        scores = scores + added
    return scores.softmax(dim=-1).to(values.dtype) @ values


def barred(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into what is added to scores: 0 where it is true, and −inf elsewhere.

    Torch's kernel wants it in the scores' type; in a graph, scores are float32 by then.
    """
    if not torch.onnx.is_in_onnx_export():
        return keep.to(dtype).log()  # two launches, where filling takes four
    return torch.zeros_like(keep, dtype=torch.float32).masked_fill(~keep, -math.inf)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[M, d] -> [h, M, k]."""
    return x.reshape(-1, heads, x.shape[-1] // heads).transpose(0, 1)


def _maps_of_regions(model: HistGen) -> list[nn.Linear]:
    blocks = [block for block in model.decoder.blocks if isinstance(block, DecoderBlock)]
    return [part for b in blocks for part in (b.region_attention.key, b.region_attention.value)]

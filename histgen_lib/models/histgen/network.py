"""HistGen: tile features of a slide in, log-probabilities of report tokens out.

Guo, Ma, Xu, Wang, Wang, Chen: "HistGen: Histopathology Report Generation via Local-Global Feature
Encoding and Cross-modal Context Interaction", MICCAI 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoder import StepOutput, TextDecoder
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings, Ints, Step, decode
from histgen_lib.models.histgen.encoder import HierarchicalEncoder, RegionMemory
from histgen_lib.models.histgen.folded import chained
from histgen_lib.models.histgen.layers import Attention, MemoryAttention, Slots, position_code
from histgen_lib.models.histgen.layout import empty_bag, prototype_rows, region_count

_CONTEXT_DROPOUT = 0.1  # the authors leave the two context attentions at their class's default

_TILES_AT_ONCE = 8192
"""Tiles embedded at a time in evaluation: 64 MB at the published 2,048 features."""


class HistGen(nn.Module):
    """The whole network. A batch holds slides of different sizes: a tile mask says which rows are real.

    Masks are prefixes: a slide's N_i tiles are in rows 0…N_i−1, in `tile_order` for a corrected model and in
    slide order for a published one. Neither padding nor the rest of the batch changes a slide's output.
    """

    def __init__(self, config: HistGenConfig) -> None:
        super().__init__()
        self.config = config
        d, heads = config.d_model, config.num_heads
        self.feature_map = nn.Linear(config.input_dim, config.d_vf)
        self.feature_embed = nn.Linear(config.d_vf, d)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self.memory = nn.Parameter(torch.empty(config.cmm_size, config.cmm_dim))
        self.memory_attention = MemoryAttention(d, heads, _CONTEXT_DROPOUT, config.topk)
        self.prototype_attention = Attention(d, heads, _CONTEXT_DROPOUT)
        self.encoder = HierarchicalEncoder(config)
        self.word_embed = nn.Embedding(config.vocab_size + 1, d)
        self.text_dropout = nn.Dropout(config.dropout)
        self.decoder = TextDecoder(config)
        self.logit = nn.Linear(d, config.vocab_size + 1)
        self._initialise()

    def forward(self, features: Tensor, tile_mask: Tensor, ids: Tensor) -> Tensor:
        """Teacher forcing: features [B, N, D], tile_mask bool[B, N], ids int64[B, T] -> [B, T, V+1].

        Row t holds the log-probabilities of the token after ids[:, :t+1]; ids start with 0. Ids of 0 after
        the first place are padding, and are ignored.
        """
        slots = self.memory_slots()
        memory = self.region_memory(features, tile_mask, slots)
        return self.text_log_probs(memory, ids, slots)

    def memory_slots(self) -> Slots:
        """Return keys and values of the shared memory: the same for tiles and words, and for every word."""
        return self.memory_attention.keys_values(self.memory)

    def region_memory(self, features: Tensor, tile_mask: Tensor, slots: Slots | None = None) -> RegionMemory:
        """Features [B, N, D] and tile_mask bool[B, N] (a prefix of each row) -> the decoder's memory."""
        if not (self.training or torch.is_grad_enabled()):
            return self._memory_in_parts(features, tile_mask, slots or self.memory_slots())
        per_region = self.config.tiles_per_region
        spare = region_count(features.shape[1], per_region) * per_region - features.shape[1]
        tiles = functional.pad(features, (0, 0, 0, spare))
        tiles = tiles.reshape(len(features), -1, per_region, features.shape[2])
        mask = functional.pad(tile_mask, (0, spare)).reshape(len(features), -1, per_region)
        return self.encode_regions(tiles, mask, self._prototypes(tile_mask), slots or self.memory_slots())

    def _prototypes(self, tile_mask: Tensor) -> Tensor:
        """Return the rows of each slide's prototypes: int64[B, K]."""
        counts = tile_mask.sum(dim=1).tolist()
        if min(counts) < 1:
            raise empty_bag()
        rows = np.stack([prototype_rows(count, self.config.prototype_num) for count in counts])
        return torch.from_numpy(rows).to(tile_mask.device)

    def _memory_in_parts(self, features: Tensor, tile_mask: Tensor, slots: Slots) -> RegionMemory:
        """Compute the memory with few tiles' activations at a time: what is kept of each is [d]."""
        batch, count, _ = features.shape
        d, per_region = self.config.d_model, self.config.tiles_per_region
        embed = self._embedding(batch * count)
        prototypes = self._prototypes(tile_mask)
        rows = torch.arange(batch, device=features.device)[:, None]
        recalled = self.memory_attention.recall(embed(features[rows, prototypes]), slots)
        regions = region_count(count, per_region)
        x = self.encoder.region_token.new_zeros(batch, regions, per_region + 1, d)
        mask = functional.pad(tile_mask, (0, regions * per_region - count))
        mask = mask.reshape(batch, regions, per_region)
        stride = max(1, _TILES_AT_ONCE // (batch * per_region))
        for first in range(0, regions, stride):
            part = slice(first * per_region, min((first + stride) * per_region, count))
            tiles = embed(features[:, part])
            tiles = tiles + self.prototype_attention(tiles, recalled)
            tiles = functional.pad(tiles * tile_mask[:, part, None], (0, 0, 0, -tiles.shape[1] % per_region))
            x[:, first : first + stride, :-1] = tiles.reshape(batch, -1, per_region, d)
        return self.encoder.in_parts(x, mask)

    def _embedding(self, tiles: int) -> Callable[[Tensor], Tensor]:
        """Return the embedding of tiles; for many, with its two maps as one."""
        if tiles <= self.config.d_vf:
            return lambda x: functional.relu(self.feature_embed(self.feature_map(x)))
        folded = chained(self.feature_map, self.feature_embed)
        return lambda x: functional.relu(folded(x))

    def encode_regions(self, tiles: Tensor, mask: Tensor, prototypes: Tensor, slots: Slots) -> RegionMemory:
        """Laid-out tiles [B, R, P, D], mask bool[B, R, P], prototypes int64[B, K] -> the memory."""
        x = functional.relu(self.feature_embed(self.feature_map(tiles.flatten(1, 2))))
        x = self._add_context(self.feature_dropout(x), prototypes, slots)
        x = x.reshape(*mask.shape, -1) * mask.unsqueeze(-1)
        memory: RegionMemory = self.encoder(x, mask)
        return memory

    def text_log_probs(self, memory: RegionMemory, ids: Tensor, slots: Slots | None = None) -> Tensor:
        """Log-probabilities [B, T, V+1] of the token after each of ids int64[B, T]."""
        length = ids.shape[1]
        places = torch.arange(length, device=ids.device)
        causal = places[:, None] >= places[None, :]
        real = (ids > 0) | (places == 0)
        words = self._words(ids, places, slots or self.memory_slots())
        x = self.decoder(words, causal & real[:, None, :], memory.regions, memory.valid)
        return functional.log_softmax(self.logit(x), dim=-1)

    def step(
        self, tokens: Tensor, cache: Tensor, cross: Tensor, region_valid: Tensor, slots: Slots
    ) -> StepOutput:
        """One cached step: tokens int64[S, B] -> StepOutput whose `words` are log-probs [S, B, V+1]."""
        place = torch.full_like(tokens, cache.shape[-2])
        out = self.decoder.step(self._words(tokens, place, slots), cache, cross, region_valid)
        return StepOutput(functional.log_softmax(self.logit(out.words), dim=-1), out.attention, out.cache)

    def empty_cache(self, slides: int) -> Tensor:
        """Make an empty cache, one beam a slide: [L, 2, slides, 1, heads, 0, d/heads]."""
        c = self.config
        return self.memory.new_zeros(c.num_layers, 2, slides, 1, c.num_heads, 0, c.d_model // c.num_heads)

    def encode(self, features: object) -> Tensor:
        """One slide's features float[N, D] (or [1, N, D]) -> its region memory float32[R, d], no gradients.

        Raises InvalidInputError: "bag-shape", "bag-empty", "bag-not-finite".
        """
        with self._inference():
            return self.region_memory(*self._single(features)).regions[0].clone()

    def log_probs(self, features: object, ids: object) -> Tensor:
        """Teacher-forced log-probabilities float32[T, V+1] for ids int[T] (first id 0) of one slide.

        Raises InvalidInputError: "ids-invalid" for ids that are no words of this model, and as `encode`.
        """
        fed = torch.from_numpy(_word_ids(ids, self.config.vocab_size)).to(self.memory.device)
        with self._inference():
            found: Tensor = self(*self._single(features), fed[None])
            return found[0].clone()

    def generate(
        self, features: object, beam_size: int = 3, max_tokens: int | None = None
    ) -> tuple[Ints, float]:
        """Beam-search one slide's report: ids int64[T], and their summed log-probability.

        The ids come WITHOUT the end token and without padding: T varies, and is 0 for an empty report. The
        score includes the end token's log-probability if the report ended before the limit. `max_tokens`
        counts the end token and defaults to the model's own limit.

        `beam_size=1` is plain beam search with one beam. The authors' code does something else: greedy
        decoding that penalises repeated trigrams, which is `generate_batch` with
        `DecodingSettings(method="greedy", block_trigrams=True)` here.

        Raises InvalidInputError: "decoding-settings", and as `encode`.
        """
        limit = self.config.max_tokens if max_tokens is None else max_tokens
        settings = DecodingSettings(beam_size=beam_size, max_tokens=limit)
        found = self.generate_batch(*self._single(features), settings)[0]
        return found.tokens, found.score

    def generate_batch(
        self, features: Tensor, tile_mask: Tensor, settings: DecodingSettings
    ) -> list[Decoded]:
        """Decode every slide of a batch: features [B, N, D], tile_mask bool[B, N] as in `forward`."""
        with self._inference():
            memory = self.region_memory(features, tile_mask)
            return decode(TorchStepper(self, memory), settings)

    def _add_context(self, x: Tensor, prototypes: Tensor, slots: Slots) -> Tensor:
        """Add what the prototype tiles recall from the shared memory."""
        chosen = x.gather(1, prototypes.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        recalled = self.memory_attention.recall(chosen, slots)
        added: Tensor = x + self.prototype_attention(x, recalled)
        return added

    def _words(self, ids: Tensor, places: Tensor, slots: Slots) -> Tensor:
        d = self.config.d_model
        x = self.text_dropout(self.word_embed(ids) * math.sqrt(d) + position_code(places, d))
        words: Tensor = x + self.memory_attention.recall(x, slots)
        return words

    def _single(self, features: object) -> tuple[Tensor, Tensor]:
        rows = _tile_features(features, self.config.input_dim).to(self.memory.device)
        return rows[None], torch.ones(1, len(rows), dtype=torch.bool, device=rows.device)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            with torch.no_grad():  # not inference mode: callers may go on computing with the result
                yield
        finally:
            self.train(training)

    def _initialise(self) -> None:
        """Xavier-uniform matrices in encoder, decoder, embedding and memory look-up; normal memory."""
        for part in (self.encoder, self.decoder, self.word_embed, self.memory_attention):
            for weight in part.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.memory, 0.0, 1.0 / self.config.cmm_dim)


class TorchCache(NamedTuple):
    """Keys and values of the words so far and of the regions, and which regions are real."""

    past: Tensor
    cross: Tensor
    valid: Tensor


class TorchStepper:
    """A `Stepper` over the network itself, for a batch of encoded slides (`HistGen.region_memory`)."""

    def __init__(self, model: HistGen, memory: RegionMemory) -> None:
        self.model = model
        self._valid = memory.valid
        self._cross = model.decoder.cross(memory.regions)
        self._slots = model.memory_slots()

    @property
    def slides(self) -> int:
        """Slides in the batch."""
        return len(self._valid)

    def start(self) -> TorchCache:
        """Make the cache before the first token."""
        return TorchCache(self.model.empty_cache(self.slides), self._cross, self._valid)

    def step(self, tokens: Ints, cache: TorchCache) -> Step[TorchCache]:
        """Feed tokens int64[S, B] and get log-probabilities, attention and the longer cache."""
        fed = torch.from_numpy(tokens).to(cache.past.device)
        out = self.model.step(fed, *cache, self._slots)
        longer = cache._replace(past=out.cache)
        return Step(out.words.cpu().numpy(), out.attention.cpu().numpy(), longer)

    def select(self, cache: TorchCache, slides: Ints, beams: Ints) -> TorchCache:
        """Keep these slides and of each these beams."""
        device = cache.past.device
        kept, of_each = torch.from_numpy(slides).to(device), torch.from_numpy(beams).to(device)
        past = cache.past[:, :, kept[:, None], of_each]
        if len(slides) == len(cache.valid):
            return cache._replace(past=past)
        return TorchCache(past, cache.cross[:, :, kept], cache.valid[kept])


def _tile_features(features: object, width: int) -> Tensor:
    """Return one slide's features, [N, width] or [1, N, width] of any number type, as float32[N, width].

    Takes tensors (gradients are dropped) and anything that NumPy reads as an array; the result may share
    memory with it. Raises InvalidInputError: "bag-shape", "bag-empty", "bag-not-finite".
    """
    rows = _as_float32(features)
    rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InvalidInputError(
            "bag-shape",
            f"This model takes features [tiles, {width}]; these are {list(rows.shape)}.",
            hint="Encode the slide with the tile encoder that the model was trained with.",
        )
    if len(rows) == 0:
        raise empty_bag()
    if not bool(rows.isfinite().all()):
        raise InvalidInputError(
            "bag-not-finite", "Some tile features are not finite numbers.", hint="Encode the slide again."
        )
    return rows


def _word_ids(ids: object, vocab_size: int) -> Ints:
    """Return one text's ids, [T] or [1, T] with T ≥ 1, as int64[T].

    Raises InvalidInputError("ids-invalid") unless all are integers from 0 to `vocab_size`.
    """
    try:
        values = np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids)
    except ValueError:  # rows of unequal length
        values = np.zeros(0)
    values = values[0] if values.ndim == 2 and len(values) == 1 else values
    # In this order: only numbers can be compared, and NaN compares false with everything.
    good = (
        values.dtype.kind in "iuf"
        and values.ndim == 1
        and values.size > 0
        and bool(((values >= 0) & (values <= vocab_size)).all())
        and bool((values == np.floor(values)).all())
    )
    if not good:
        raise InvalidInputError(
            "ids-invalid",
            f"A text is a row of one or more integers from 0 to {vocab_size}.",
            hint="Use the tokenizer of this model to make ids.",
        )
    return np.array(values, dtype=np.int64)


def _as_float32(features: object) -> Tensor:
    if isinstance(features, Tensor):
        return features.detach().to(torch.float32)
    try:
        with np.errstate(over="ignore"):  # what leaves float32's range is found not to be finite
            rows = np.require(features, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            "bag-shape",
            f"Tile features must be an array of numbers, not {type(features).__name__} ({error}).",
        ) from error
    return torch.from_numpy(rows)

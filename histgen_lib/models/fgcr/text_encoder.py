"""Words to vectors: FGCR's text encoder, and the head that guesses words from what is around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.fgcr.attention import Attention
from histgen_lib.models.fgcr.config import FgcrConfig


class TextBlock(nn.Module):
    """A post-norm layer: attention, then two maps with ReLU between, each added and normalised."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.text_heads, config.text_dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.expand = nn.Linear(config.dim, config.text_ff)
        self.contract = nn.Linear(config.text_ff, config.dim)
        self.feed_norm = nn.LayerNorm(config.dim)
        self._dropout = nn.Dropout(config.text_dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """One layer further: x [B, T, d], `visible` bool[B, T] as keys."""
        x = self.attention_norm(x + self._dropout(self.attention(x, x, visible)))
        inner = self._dropout(functional.relu(self.expand(x)))
        fed: Tensor = self.feed_norm(x + self._dropout(self.contract(inner)))
        return fed


class TextEncoder(nn.Module):
    """Tokens with a token for the whole text before them; at most `max_words` tokens."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.word_embed = nn.Embedding(config.vocab_size, config.word_dim)
        self.word_map = nn.Linear(config.word_dim, config.dim)
        self.position_embed = nn.Embedding(config.max_words, config.dim)
        self.whole_token = nn.Parameter(torch.randn(config.dim))
        self.entry_norm = nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(config.dim)

    def enter(self, tokens: Tensor) -> Tensor:
        """Embed tokens int64[B, T] as [B, 1 + T, d], the whole text first."""
        words = self._embedded(tokens)
        whole = self.whole_token.expand(len(words), 1, -1)
        entered: Tensor = self.entry_norm(torch.cat([whole, words], dim=1))
        return entered

    def read(self, entered: Tensor, mask: Tensor) -> Tensor:
        """Run the layers over what `enter` returned; words where `mask` bool[B, T] is false are not seen."""
        visible = functional.pad(mask, (1, 0), value=True)
        return self._layers(entered, visible)

    def read_sequence(self, tokens: Tensor) -> Tensor:
        """Run the layers over tokens int64[B, T] without a whole before them (published prompts)."""
        entered = self.entry_norm(self._embedded(tokens))
        return self._layers(entered, torch.ones_like(tokens, dtype=torch.bool))

    def _embedded(self, tokens: Tensor) -> Tensor:
        words: Tensor = self.word_map(self.word_embed(tokens))
        return words + self.position_embed.weight[: tokens.shape[1]]

    def _layers(self, x: Tensor, visible: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, visible)
        read: Tensor = self.norm(x)
        return read


class WordGuess(nn.Module):
    """Words' vectors [..., d] to scores [..., V] of what they are."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.scores = nn.Linear(config.dim, config.vocab_size)

    def forward(self, words: Tensor) -> Tensor:
        """Guess."""
        scores: Tensor = self.scores(self.norm(functional.relu(self.dense(words))))
        return scores

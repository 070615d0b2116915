"""The losses of the published FGCR, to the letter (hudingyi/FGCR, model.py at commit c9c1a66)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from histgen_lib.models.fgcr.network import Fgcr, SlideOutput, Slides, TextOutput, Texts

if TYPE_CHECKING:
    from histgen_lib.models.fgcr.losses import Batch

_MLM, _WRA, _CTA = 0.1, 0.2, 0.01
_APA_TEMPERATURE = 10


def published_losses(network: Fgcr, batch: Batch) -> dict[str, Tensor]:
    """Return each loss by its name, weighted as published, and their sum as "total".

    Of `batch`, `reports`, `sentences` and `said` are not read; of each prompt only the first token.
    """
    slides, texts, targets = batch.slides, batch.texts, batch.targets
    seen, read = network.see(slides), network.read(texts)
    image_scores, text_scores = network.prompts(seen.whole), network.prompts(read.whole)
    prompts = network.text.read_sequence(batch.prompts.tokens[:, :1].T)[0]
    losses = {
        "pc_image": _prompt_loss(image_scores, targets),
        "pc_text": _prompt_loss(text_scores, targets),
        "apa": _anchor_loss(seen.layers[-1], slides.anchor_mask, prompts, targets),
        # On the prompts' scores, not on the embeddings that retrieval compares: as published.
        "wra": _WRA * _pair_loss(image_scores @ text_scores.T / image_scores.shape[1]),
        **_token_losses(network, slides, texts, seen, read),
        "mlm": _MLM * _word_loss(network, texts, read, batch.hidden),
    }
    return losses | {"total": torch.stack(list(losses.values())).sum()}


def _prompt_loss(scores: Tensor, targets: Tensor) -> Tensor:
    return _missed(scores.softmax(dim=1), targets)


def _missed(chances: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of chances, in float32: mixed precision on a GPU refuses it."""
    with torch.autocast(chances.device.type, enabled=False):
        return functional.binary_cross_entropy(chances.float(), targets)


def _anchor_loss(anchors: Tensor, mask: Tensor, prompts: Tensor, targets: Tensor) -> Tensor:
    """Anchors [B, R, d] against prompts [P, d]: their sigmoid, weighed by a softmax over real anchors."""
    alike = anchors @ prompts.T / anchors.shape[2] / _APA_TEMPERATURE
    share = alike.masked_fill(~mask.unsqueeze(2), -torch.inf).softmax(dim=1)
    return _missed((share * alike.sigmoid()).sum(dim=1), targets)


def _pair_loss(scores: Tensor) -> Tensor:
    own = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)


def _token_losses(
    network: Fgcr, slides: Slides, texts: Texts, seen: SlideOutput, read: TextOutput
) -> dict[str, Tensor]:
    anchors, words = seen.layers[-1], read.words
    of_words = network.local_attention(anchors, words, texts.mask)
    of_anchors = network.local_attention(words, anchors, slides.anchor_mask)
    return {
        "cta_patch": _CTA * _identity_loss(anchors, of_words, slides.anchor_mask),
        "cta_text": _CTA * _identity_loss(words, of_anchors, texts.mask),
    }


def _identity_loss(own: Tensor, heard: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy by rows and by columns; padding is left out as what is sought, not as what is found."""
    alike = own @ heard.transpose(1, 2) / own.shape[2]
    wanted = torch.arange(own.shape[1], device=own.device).expand(own.shape[:2])[mask]
    rows = functional.cross_entropy(alike[mask], wanted)
    return rows + functional.cross_entropy(alike.transpose(1, 2)[mask], wanted)


def _word_loss(network: Fgcr, texts: Texts, read: TextOutput, hidden: Tensor) -> Tensor:
    """Hidden words are not attended, yet are read at their own places: the published leak."""
    found = network.text.read(read.entered, texts.mask & ~hidden)[:, 1:]
    scores = network.word_guess(found[texts.mask]).sigmoid()
    return functional.cross_entropy(scores, texts.tokens[texts.mask])

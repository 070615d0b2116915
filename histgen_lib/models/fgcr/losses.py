"""What a corrected FGCR is trained on: its own form of the published losses, and sentences against slides.

wra        slides and their reports, by the vectors that retrieval compares; equal reports are each other's,
           and, as much again, reports of one kind
kin        slides and reports of one kind, both ways and among themselves
apa        regions and prompts: a slide has a prompt if one of its regions has it
cta        regions and words that attend each other keep what tells them apart
pc_image, pc_text   which prompts a slide, or a report, has
mlm        words that were hidden from everything
sentences  a sentence is supported by some region of its own slide, more than of slides without it
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from histgen_lib.models.fgcr.attention import without
from histgen_lib.models.fgcr.network import Fgcr, SlideOutput, Slides, TextOutput, Texts
from histgen_lib.models.fgcr.words import MASK_ID


class Batch(NamedTuple):
    """B slides with their reports.

    slides, texts  the pairs
    prompts        the P prompts, a phrase each; published: their first tokens, as one sequence
    targets        float32[B, P], 1 where the report has the prompt
    hidden         bool[B, T], words to be guessed; published: hidden as keys only
    reports        int64[B], equal numbers for equal reports
    sentences      the S different sentences of the reports
    said           bool[B, S], whether the report has the sentence
    kinds          int64[B], equal numbers for reports of one kind, such as one organ and diagnosis; without
                   them only equal reports are
    """

    slides: Slides
    texts: Texts
    prompts: Texts
    targets: Tensor
    hidden: Tensor
    reports: Tensor
    sentences: Texts
    said: Tensor
    kinds: Tensor | None = None


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts in "total"; 0 leaves it out."""

    wra: float = 1.0
    kin: float = 0.5
    apa: float = 0.5
    cta: float = 0.05
    pc_image: float = 1.0
    pc_text: float = 1.0
    mlm: float = 0.1
    sentences: float = 0.5


def corrected_losses(network: Fgcr, batch: Batch, weights: LossWeights | None = None) -> dict[str, Tensor]:
    """Return each loss by its name, unweighted, and their weighted sum as "total"."""
    seen, read = network.see(batch.slides), network.read(batch.texts)
    scale, mask = network.scale, batch.slides.anchor_mask
    prompts = network.read(batch.prompts).vector
    presence = support(seen.regions, mask, prompts, scale) + network.presence_bias
    sentences = network.read(batch.sentences).vector
    kinds = batch.reports if batch.kinds is None else batch.kinds
    losses = {
        "wra": report_alignment(scale * seen.vector @ read.vector.T, batch.reports, kinds),
        "kin": _kind_alignment(torch.cat([seen.vector, read.vector]), kinds.repeat(2), scale),
        "apa": functional.binary_cross_entropy_with_logits(presence, batch.targets),
        "cta": _token_alignment(network, batch, seen, read),
        "pc_image": _prompt_loss(network, seen.whole, batch.targets),
        "pc_text": _prompt_loss(network, read.whole, batch.targets),
        "mlm": _word_loss(network, batch),
        "sentences": _sentence_alignment(support(seen.regions, mask, sentences, scale), batch.said),
    }
    share = asdict(weights or LossWeights())
    return losses | {"total": torch.stack([share[name] * value for name, value in losses.items()]).sum()}


def support(regions: Tensor, anchor_mask: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return how well some region of a slide goes with a text, times `scale`: [B, S], a soft maximum.

    `regions` [B, R, v], those of `anchor_mask` bool[B, R]; `texts` [S, v]. As many equal regions as there may
    be support a text as one of them does.
    """
    alike = scale * torch.einsum("brv,sv->brs", regions, texts)
    counted = without(alike, ~anchor_mask.unsqueeze(2)).logsumexp(dim=1)
    return counted - anchor_mask.sum(dim=1, keepdim=True).to(alike.dtype).log()


def report_alignment(scores: Tensor, reports: Tensor, kinds: Tensor) -> Tensor:
    """InfoNCE of slides × reports [B, B]: half of what is sought is equal, half of a kind."""
    wanted = (_equal(reports, scores) + _equal(kinds, scores)) / 2
    return (functional.cross_entropy(scores, wanted) + functional.cross_entropy(scores.T, wanted)) / 2


def _kind_alignment(vectors: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
    """Supervised contrast (Khosla et al., NeurIPS 2020) of vectors [2B, v] of the kinds int64[2B]."""
    itself = torch.eye(len(kinds), dtype=torch.bool, device=kinds.device)
    shares = without(scale * vectors @ vectors.T, itself).log_softmax(dim=1)
    same = (kinds.unsqueeze(0) == kinds.unsqueeze(1)) & ~itself
    return -((shares * same).sum(dim=1) / same.sum(dim=1)).mean()


def _equal(numbers: Tensor, like: Tensor) -> Tensor:
    """Return which numbers [B] are equal, as shares of each row: [B, B]."""
    same = (numbers.unsqueeze(0) == numbers.unsqueeze(1)).to(like.dtype)
    return same / same.sum(dim=1, keepdim=True)


def _sentence_alignment(scores: Tensor, said: Tensor) -> Tensor:
    """Each sentence before slides without it, each slide's sentences before others: scores [B, S]."""
    return (_before_others(scores, said) + _before_others(scores.T, said.T)) / 2


def _before_others(scores: Tensor, right: Tensor) -> Tensor:
    """Mean over all `right` bool[A, C] of −log of its share among itself and the wrong ones of its column."""
    wrong = without(scores, right).logsumexp(dim=0, keepdim=True)
    losses = functional.softplus(wrong - scores)
    return (losses * right).sum() / right.sum().clamp_min(1)


def _prompt_loss(network: Fgcr, whole: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(network.prompts(whole), targets)


def _word_loss(network: Fgcr, batch: Batch) -> Tensor:
    """Guess words where what the encoder reads says only that a word is hidden."""
    tokens, hidden = batch.texts.tokens, batch.hidden & batch.texts.mask
    if not bool(hidden.any()):
        return tokens.new_zeros((), dtype=torch.float32)
    masked = Texts(tokens.masked_fill(hidden, MASK_ID), batch.texts.mask)
    words = network.read(masked).words
    return functional.cross_entropy(network.word_guess(words[hidden]), tokens[hidden])


def _token_alignment(network: Fgcr, batch: Batch, seen: SlideOutput, read: TextOutput) -> Tensor:
    """Regions recognise themselves in the words that they attend, words in the regions."""
    anchors, words = seen.layers[-1], read.words
    anchor_mask, word_mask = batch.slides.anchor_mask, batch.texts.mask
    of_words = network.local_attention(anchors, words, word_mask)
    of_anchors = network.local_attention(words, anchors, anchor_mask)
    return _recognised(anchors, of_words, anchor_mask) + _recognised(words, of_anchors, word_mask)


def _recognised(own: Tensor, heard: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of finding each of `own` [B, n, d] among `heard`, and the reverse, padding left out."""
    alike = own @ heard.transpose(1, 2) / own.shape[2] ** 0.5
    alike = without(alike, ~(mask.unsqueeze(1) & mask.unsqueeze(2)))
    wanted = torch.arange(own.shape[1], device=own.device).expand(own.shape[:2])[mask]
    rows = functional.cross_entropy(alike[mask], wanted)
    return (rows + functional.cross_entropy(alike.transpose(1, 2)[mask], wanted)) / 2

"""What FGCR is compared with: the same text encoder and alignment, with simpler vectors of slides.

"mean": the mean of the tiles. "attention": gated attention over them (Ilse, Tomczak, Welling, ICML 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from histgen_lib.models.fgcr.attention import without
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.losses import Batch, LossWeights, corrected_losses, report_alignment
from histgen_lib.models.fgcr.network import Fgcr, SlideOutput, Slides
from histgen_lib.models.fgcr.published_losses import published_losses
from histgen_lib.training.retrieval.settings import ImageEncoder


class Pooled(Fgcr):
    """FGCR with one pooling of the tiles in place of its slide encoder; a slide is its own only region."""

    def __init__(self, config: FgcrConfig, *, attention: bool) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList()
        self.pool_norm = nn.LayerNorm(config.dim)
        self.gates = GatedScores(config.dim) if attention else None

    def see(self, slides: Slides) -> SlideOutput:
        """Pool."""
        tiles = self.pool_norm(torch.relu(self.tile_map(slides.features)))
        scores = self.gates(tiles) if self.gates is not None else tiles.new_zeros(tiles.shape[:2])
        share = without(scores, ~slides.tile_mask).softmax(dim=1)
        whole = torch.einsum("bn,bnd->bd", share, tiles)
        vector = self.slide_projection(whole)
        return SlideOutput(vector, vector.unsqueeze(1), whole, ())


class GatedScores(nn.Module):
    """How much each tile counts: w · (tanh(V x) ∘ sigmoid(U x))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.content, self.gate, self.weight = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        """Score tiles [B, N, d]: [B, N]."""
        scores: Tensor = self.weight(torch.tanh(self.content(tiles)) * torch.sigmoid(self.gate(tiles)))
        return scores.squeeze(-1)


def make_network(image: ImageEncoder, config: FgcrConfig) -> Fgcr:
    """Make FGCR, or a network to compare it with."""
    return Fgcr(config) if image == "fgcr" else Pooled(config, attention=image == "attention")


def losses_of(network: Fgcr, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
    """Return what a network is trained on: its mode's losses; for pooled slides the alignment alone."""
    if isinstance(network, Pooled):
        scores = network.scale * network.see(batch.slides).vector @ network.read(batch.texts).vector.T
        kinds = batch.reports if batch.kinds is None else batch.kinds
        return {"total": report_alignment(scores, batch.reports, kinds)}
    if not network.config.corrected:
        return published_losses(network, batch)
    return corrected_losses(network, batch, weights)

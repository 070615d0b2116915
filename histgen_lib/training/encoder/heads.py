"""The heads a tile encoder trains with: linear questions to its feature, and a class for every cell.

The heads stay beside the encoder (tile_heads.safetensors): their directions are findings it can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.encoder.batches import TileBatch, encode_rows
from histgen_lib.training.encoder.tiles import MEETINGS, NO_GRADE, TileSet

GRADES = 3

_LEAST_POSITIVES = 5


class TileTeacher(nn.Module):
    """An encoder with its heads. All tile-level outputs are one linear map of the feature."""

    def __init__(self, encoder: TileEncoder, classes: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        count = len(self.classes)
        self.sizes = (count, count, 1, GRADES, len(MEETINGS))
        self.heads = nn.Linear(encoder.dim, sum(self.sizes))
        self.dense = nn.Conv2d(encoder.widths[-1], count, 1)

    def forward(self, pixels: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Map pixels uint8[B, H, W, 3] to outputs [B, sum(sizes)] and class scores [B, K, side, side]."""
        mapped = self.encoder.feature_map(pixels)
        pooled = torch.cat([mapped.mean(dim=(2, 3)), mapped.amax(dim=(2, 3))], dim=1)
        outputs = self.heads(self.encoder.head(pooled))
        return outputs, functional.adaptive_avg_pool2d(self.dense(mapped), side)

    def split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Split into presence and share logits [B, K], log(1 + mitoses) [B, 1], grade and meeting logits."""
        return torch.split(outputs, list(self.sizes), dim=1)

    def names(self) -> list[str]:
        """Name each row of `heads`."""
        meets = [f"{first}-meets-{second}" for first, second in MEETINGS]
        present = [f"present:{name}" for name in self.classes]
        share = [f"share:{name}" for name in self.classes]
        return [*present, *share, "mitoses", *(f"grade:{n + 1}" for n in range(GRADES)), *meets]

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Fold a shift and a scale [D] into the last layer, so that features have mean 0 and deviation 1.

        The heads are adjusted to give the same outputs.
        """
        with torch.no_grad():
            last = self.encoder.head
            self.heads.bias.add_(self.heads.weight @ mean)
            self.heads.weight.mul_(deviation)
            last.weight.div_(deviation[:, None])
            last.bias.sub_(mean).div_(deviation)


def class_shares(cells: Tensor, classes: int) -> Tensor:
    """Return the share of each class [B, K] in cells int64[B, C, C]."""
    return functional.one_hot(cells.flatten(1), classes).float().mean(dim=1)


def teacher_loss(teacher: TileTeacher, outputs: Tensor, dense: Tensor, batch: TileBatch) -> Tensor:
    """Sum the losses of all heads; a class is present from two cells on, half present with one."""
    presence, fractions, mitoses, grade, meetings = teacher.split(outputs)
    shares = class_shares(batch.cells, len(teacher.classes))
    present = (shares * batch.cells[0].numel() / 2).clamp(max=1.0)
    cost = 12.0 * functional.binary_cross_entropy_with_logits(presence, present)
    cost = cost + 0.5 * functional.cross_entropy(fractions, shares)
    cost = cost + functional.smooth_l1_loss(mitoses[:, 0], batch.mitoses.log1p())
    cost = cost + functional.binary_cross_entropy_with_logits(meetings, batch.meetings)
    if bool((batch.grade != NO_GRADE).any()):
        cost = cost + 0.5 * functional.cross_entropy(grade, batch.grade, ignore_index=NO_GRADE)
    return cost + functional.cross_entropy(dense, batch.cells)


def tile_scores(teacher: TileTeacher, tiles: TileSet, batch_size: int) -> dict[str, float]:
    """Return average precision per class and meeting, grade accuracy, and mitosis error (log).

    Present means two cells or more. Classes with fewer than 5 positive tiles are left out.
    """
    presence, mitoses, grade, meetings = _predict(teacher, tiles, batch_size)
    flat = tiles.targets.cells.reshape(len(tiles), -1)
    scores: dict[str, float] = {}
    for number, name in enumerate(teacher.classes):
        present = (flat == number).sum(axis=1) >= 2
        if present.sum() >= _LEAST_POSITIVES:
            scores[f"ap:{name}"] = average_precision(presence[:, number], present)
    for number, pair in enumerate(MEETINGS):
        touching = tiles.targets.meetings[:, number] > 0
        if touching.sum() >= _LEAST_POSITIVES:
            scores[f"ap:{pair[0]}-meets-{pair[1]}"] = average_precision(meetings[:, number], touching)
    graded = tiles.targets.grade != NO_GRADE
    scores["grade_accuracy"] = (
        float((grade.argmax(axis=1) == tiles.targets.grade)[graded].mean()) if graded.any() else 0.0
    )
    scores["mitoses_log_error"] = float(np.abs(mitoses - np.log1p(tiles.targets.mitoses)).mean())
    with_any = tiles.targets.mitoses > 0
    if with_any.sum() >= _LEAST_POSITIVES:
        scores["ap:mitoses"] = average_precision(mitoses, with_any)
    return {name: round(value, 4) for name, value in scores.items()}


def average_precision(scores: NDArray[np.floating], present: NDArray[np.bool_]) -> float:
    """Return the area under the precision–recall curve, as a step function (no interpolation)."""
    hits = present[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / max(hits.sum(), 1))


def _predict(teacher: TileTeacher, tiles: TileSet, batch_size: int) -> tuple[NDArray[np.float32], ...]:
    """Return presence logits [N, K], log(1 + mitoses) [N], grade logits [N, 3], meeting logits [N, 2]."""
    features = encode_rows(teacher.encoder, tiles, np.arange(len(tiles)), batch_size)
    with torch.inference_mode():
        presence, _, mitoses, grade, meetings = teacher.split(teacher.heads(features))
    return presence.numpy(), mitoses[:, 0].numpy(), grade.numpy(), meetings.numpy()

"""What a tile encoder is asked while it learns: linear questions to its feature, and a class for every cell.

The heads stay beside the encoder (tile_heads.safetensors): their directions are findings it can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.errors import FatalError
from histgen_lib.files import atomic_path
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.tile_truth import MEETINGS, NO_GRADE

HEADS_FILE = "tile_heads.safetensors"
GRADES = 3


@dataclass(frozen=True)
class TileBatchTensors:
    """Tensors uint8[B, H, W, 3], int64[B, C, C], float32[B], int64[B] and float32[B, len(MEETINGS)]."""

    pixels: Tensor
    cells: Tensor
    mitoses: Tensor
    grade: Tensor
    meetings: Tensor


class TileTeacher(nn.Module):
    """An encoder with its heads. All tile-level answers come from one linear map of the feature."""

    def __init__(self, encoder: TileEncoder, classes: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        count = len(self.classes)
        self.sizes = (count, count, 1, GRADES, len(MEETINGS))
        self.heads = nn.Linear(encoder.dim, sum(self.sizes))
        self.dense = nn.Conv2d(encoder.widths[-1], count, 1)

    def forward(self, pixels: Tensor, cells_side: int) -> tuple[Tensor, Tensor]:
        """Pixels uint8[B, H, W, 3] → answers [B, sum(sizes)], class scores [B, K, cells_side, cells_side]."""
        mapped = self.encoder.feature_map(pixels)
        pooled = torch.cat([mapped.mean(dim=(2, 3)), mapped.amax(dim=(2, 3))], dim=1)
        answers = self.heads(self.encoder.head(pooled))
        return answers, functional.adaptive_avg_pool2d(self.dense(mapped), cells_side)

    def split(self, answers: Tensor) -> tuple[Tensor, ...]:
        """Presence and fraction logits [B, K] each, log(1 + mitoses) [B, 1], grade and meeting logits."""
        return torch.split(answers, list(self.sizes), dim=1)

    def names(self) -> list[str]:
        """Name each row of `heads`."""
        meets = [f"{first}-meets-{second}" for first, second in MEETINGS]
        present = [f"present:{name}" for name in self.classes]
        share = [f"share:{name}" for name in self.classes]
        return [*present, *share, "mitoses", *(f"grade:{n + 1}" for n in range(GRADES)), *meets]

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Fold a shift and a scale [D] into the last layer, so that features have mean 0 and deviation 1.

        The heads are changed to answer as before.
        """
        with torch.no_grad():
            last = self.encoder.head
            self.heads.bias.add_(self.heads.weight @ mean)
            self.heads.weight.mul_(deviation)
            last.weight.div_(deviation[:, None])
            last.bias.sub_(mean).div_(deviation)


def class_shares(cells: Tensor, classes: int) -> Tensor:
    """Share of each class [B, K] in cells int64[B, C, C]."""
    return functional.one_hot(cells.flatten(1), classes).float().mean(dim=1)


def teacher_loss(teacher: TileTeacher, answers: Tensor, dense: Tensor, batch: TileBatchTensors) -> Tensor:
    """Sum what each question costs; a class counts as present from two cells on, half from one."""
    presence, fractions, mitoses, grade, meetings = teacher.split(answers)
    shares = class_shares(batch.cells, len(teacher.classes))
    present = (shares * batch.cells[0].numel() / 2).clamp(max=1.0)
    cost = 12.0 * functional.binary_cross_entropy_with_logits(presence, present)
    cost = cost + 0.5 * functional.cross_entropy(fractions, shares)
    cost = cost + functional.smooth_l1_loss(mitoses[:, 0], batch.mitoses.log1p())
    cost = cost + functional.binary_cross_entropy_with_logits(meetings, batch.meetings)
    if bool((batch.grade != NO_GRADE).any()):
        cost = cost + 0.5 * functional.cross_entropy(grade, batch.grade, ignore_index=NO_GRADE)
    return cost + functional.cross_entropy(dense, batch.cells)


def save_heads(teacher: TileTeacher, folder: Path) -> None:
    """Write the tile-level heads: tensors weight float32[H, D], bias float32[H]; metadata names."""
    tensors = {"weight": teacher.heads.weight.detach().clone(), "bias": teacher.heads.bias.detach().clone()}
    with atomic_path(folder / HEADS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"names": "\n".join(teacher.names())})


def load_heads(folder: Path) -> tuple[Tensor, Tensor, list[str]] | None:
    """(weight [H, D], bias [H], names), or None where an encoder has no heads.

    FatalError("training-heads-unreadable") when the file is damaged.
    """
    path = folder / HEADS_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            names = (stored.metadata() or {}).get("names", "").split("\n")
            return stored.get_tensor("weight"), stored.get_tensor("bias"), names
    except (SafetensorError, OSError) as error:
        raise FatalError(
            "training-heads-unreadable",
            f"{path} is damaged.",
            hint="Delete it, or train the tile encoder again.",
        ) from error

"""How well the heads read validation tiles, one number a question."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.training.tile_batches import encode_rows
from histgen_lib.training.tile_cache import TileSet
from histgen_lib.training.tile_heads import TileTeacher
from histgen_lib.training.tile_truth import MEETINGS, NO_GRADE

_LEAST_POSITIVES = 5


def tile_scores(teacher: TileTeacher, tiles: TileSet, batch_size: int) -> dict[str, float]:
    """Average precision of each class's presence and each meeting, grade accuracy, mitosis error (log).

    Present means two cells or more. Classes with fewer than 5 positive tiles are left out.
    """
    presence, mitoses, grade, meetings = _answers(teacher, tiles, batch_size)
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
    """Area under precision over recall, as a step function (no interpolation)."""
    hits = present[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / max(hits.sum(), 1))


def _answers(teacher: TileTeacher, tiles: TileSet, batch_size: int) -> tuple[NDArray[np.float32], ...]:
    """Presence logits [N, K], log(1 + mitoses) [N], grade logits [N, 3], meeting logits [N, 2]."""
    features = encode_rows(teacher.encoder, tiles, np.arange(len(tiles)), batch_size)
    with torch.inference_mode():
        presence, _, mitoses, grade, meetings = teacher.split(teacher.heads(features))
    return presence.numpy(), mitoses[:, 0].numpy(), grade.numpy(), meetings.numpy()

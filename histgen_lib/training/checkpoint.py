"""The state of a training run on disk: enough to go on exactly where it stopped, replaced atomically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import atomic_path

_SCHEMA = 1


@dataclass
class RunState:
    """Where a run is. Random numbers are functions of (seed, epoch, step), so these say everything of them.

    epoch, step      the next step to take: `step` batches of `epoch` are done
    best             what validation said of the best weights so far (empty before the first validation)
    best_weights     those weights
    stale_epochs     validations since the best one
    rows             one row of metrics for each finished epoch
    loss_sum, seconds  running totals of the current epoch and of the whole run
    """

    epoch: int = 0
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stale_epochs: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    loss_sum: float = 0.0
    seconds: float = 0.0


def save_state(
    path: Path, run: RunState, parts: Mapping[str, Mapping[str, Any]], fingerprint: Mapping[str, Any]
) -> None:
    """Write `run` and the state_dicts `parts` (model, optimizer, schedule, scaler) all or nothing."""
    content = {
        "schema": _SCHEMA,
        "fingerprint": _plain(fingerprint),
        "run": vars(run),
        "parts": {name: dict(part) for name, part in parts.items()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_state(path: Path, fingerprint: Mapping[str, Any]) -> tuple[RunState, dict[str, dict[str, Any]]]:
    """Read what `save_state` wrote.

    FatalError("training-state-unreadable") when the file is not such a state;
    InvalidInputError("training-state-differs") when it belongs to other settings or other data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known, run, parts = content["fingerprint"], RunState(**content["run"]), dict(content["parts"])
    except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
        raise FatalError(
            "training-state-unreadable",
            f"{path} cannot be read as the state of a training run ({type(error).__name__}).",
            hint="Delete it to start the training anew.",
        ) from error
    _check_same(path, known, _plain(fingerprint))
    return run, parts


def _check_same(path: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
    if different:
        raise InvalidInputError(
            "training-state-differs",
            f"{path.parent} holds a run with other settings or data ({', '.join(different)}).",
            hint="Use another output folder, or delete that one to start anew.",
        )


def _plain(value: Any) -> Any:
    """Tuples to lists and paths to text, so that a value equals itself after a round trip."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

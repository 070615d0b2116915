"""Settings and state that every training run has; the state on disk is enough to resume exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import atomic_path

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of any training run; a model's own settings extend them.

    out           becomes the model's folder; state, metrics and TensorBoard files go to `run_folder` in it
    name          the model's name in provenance
    save_every_s  seconds between saves of the state
    threads       cores to use (0: all)
    """

    incidental: ClassVar[frozenset[str]] = frozenset({"out", "name", "save_every_s", "threads"})
    """Settings that do not affect the weights: a resumed run may change them."""

    out: Path
    name: str
    seed: int
    save_every_s: float
    threads: int = 0

    @property
    def run_folder(self) -> Path:
        """Folder of the run's own files."""
        return self.out / "training"

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that decide the weights: a resumed run must have the same."""
        return {name: value for name, value in asdict(self).items() if name not in self.incidental}


_Settings = TypeVar("_Settings", bound=RunSettings)


@dataclass(frozen=True, kw_only=True)
class RunOverrides:
    """What a person sets on top of a run's settings; None keeps a setting. Subclasses add the fields."""

    def apply(self, settings: _Settings) -> _Settings:
        """Return `settings` with these values."""
        return replace(settings, **{key: value for key, value in vars(self).items() if value is not None})


@dataclass
class RunState:
    """How far a run has got. Random numbers are functions of (seed, epoch, step): no generator is saved.

    epoch, step        the next step to take: `step` batches of `epoch` are done
    best               validation scores of the best weights so far (empty before the first validation)
    best_weights       those weights
    stale_epochs       validations since the best one
    rows               one row of metrics per finished epoch
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
    """Write `run` and the state_dicts `parts` (model, optimizer, schedule, scaler) atomically."""
    content = {
        "schema": _SCHEMA,
        "fingerprint": _plain(fingerprint),
        "run": vars(run),
        "parts": {name: dict(part) for name, part in parts.items()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_state(path: Path, fingerprint: Mapping[str, Any]) -> tuple[RunState, dict[str, dict[str, Any]]]:
    """Read a state that `save_state` wrote.

    FatalError("training-state-unreadable") if the file is damaged or not such a state;
    InvalidInputError("training-state-differs") if it belongs to other settings or other data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        stored, run, parts = content["fingerprint"], RunState(**content["run"]), dict(content["parts"])
    except Exception as error:  # torch.load can raise anything on damaged bytes
        raise FatalError(
            "training-state-unreadable",
            f"{path} cannot be read as the state of a training run ({type(error).__name__}).",
            hint="Delete it to start training from scratch.",
        ) from error
    _check_same(path, stored, _plain(fingerprint))
    return run, parts


def _check_same(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    different = sorted(key for key in {*stored, *current} if stored.get(key) != current.get(key))
    if different:
        raise InvalidInputError(
            "training-state-differs",
            f"{path.parent} holds a run with other settings or data ({', '.join(different)}).",
            hint="Use another output folder, or delete that one to start from scratch.",
        )


def _plain(value: Any) -> Any:
    """Turn tuples into lists and paths into text, so that a value equals itself after a round trip."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

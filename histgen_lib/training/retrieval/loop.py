"""The training loop: batches in, the best weights out. Stopping and resuming do not change the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from histgen_lib.bags import maker_of
from histgen_lib.files import sha256_hex
from histgen_lib.models.fgcr.losses import Batch
from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.training.checkpoint import RunState, load_state, save_state
from histgen_lib.training.data import plan_batches
from histgen_lib.training.optim import autocast, make_optimizer, make_scaler, make_schedule
from histgen_lib.training.retrieval.data import Batcher, hash_of
from histgen_lib.training.retrieval.settings import RetrievalSettings
from histgen_lib.training.retrieval.validation import Validator, is_better
from histgen_lib.training.tracking import MetricsLog, TrainProgress

_STEP_STREAM = 13

Losses = Callable[[Fgcr, Batch], dict[str, Tensor]]
"""A batch → each loss by its name, and "total", which is trained on."""


@dataclass
class RetrievalLoop:
    """One run; state.pt, metrics.csv and TensorBoard files go to `folder`."""

    settings: RetrievalSettings
    network: Fgcr
    losses: Losses
    validator: Validator
    folder: Path
    quiet: bool = False
    after_step: Callable[[RunState], None] = lambda run: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.network, self.settings)
        self.steps_per_epoch = len(self._batches(0))
        self.schedule = make_schedule(self.optimizer, self.settings, self.steps_per_epoch)
        self.scaler = make_scaler(self.settings, self._device)
        self.run = RunState()
        self._saved_at = self._counted_at = self.clock()

    @property
    def state_path(self) -> Path:
        """File of the run's state."""
        return self.folder / "state.pt"

    def resume(self) -> None:
        """Continue from the state on disk, if there is one."""
        if not self.state_path.exists():
            return
        self.run, parts = load_state(self.state_path, self.fingerprint())
        self.network.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.schedule.load_state_dict(parts["schedule"])
        self.scaler.load_state_dict(parts["scaler"])

    def fit(self) -> RunState:
        """Train to the last epoch, or until validation has not improved for `patience_epochs`."""
        total = self.settings.epochs * self.steps_per_epoch
        done = self.run.epoch * self.steps_per_epoch + self.run.step
        log = MetricsLog(self.folder, self.run.rows)
        with TrainProgress("train", total, done=done, quiet=self.quiet) as progress:
            while self.run.epoch < self.settings.epochs and not self._stale():
                self._epoch(progress)
                row = self._finish_epoch()
                log.write(row)
                progress.note(_summary(row))
        log.close()
        return self.run

    def fingerprint(self) -> dict[str, object]:
        """Return what a state must match to be resumed: settings, slides, their reports and their encoder."""
        first = maker_of(self._train.examples[0].load())
        return self.settings.fingerprint() | {
            "slides": _told_apart(self._train),
            "validation slides": _told_apart(self.validator.queries),
            "tile encoder": [first.sha256, first.settings, first.width],
        }

    @property
    def _train(self) -> Batcher:
        return self.validator.gallery

    @property
    def _device(self) -> torch.device:
        return self._train.device

    def _stale(self) -> bool:
        return self.run.stale_epochs >= self.settings.patience_epochs

    def _epoch(self, progress: TrainProgress) -> None:
        self.network.train()
        for step, rows in list(enumerate(self._batches(self.run.epoch)))[self.run.step :]:
            loss = self._step(step, rows)
            self.run.step = step + 1
            self.run.loss_sum += loss
            progress.advance(1, f"loss {self.run.loss_sum / self.run.step:.4f}")
            self.after_step(self.run)
            if self.clock() - self._saved_at > self.settings.save_every_s:
                self._save()

    def _step(self, step: int, rows: Sequence[int]) -> float:
        torch.manual_seed(hash_of(self.settings.seed, self.run.epoch, step, _STEP_STREAM))
        batch = self._train.batch(rows, self.run.epoch)
        with autocast(self.settings, self._device):
            loss = self.losses(self.network, batch)["total"]
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.settings.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return float(loss.item())

    def _batches(self, epoch: int) -> list[list[int]]:
        sizes = [max(example.tiles_hint, 1) for example in self._train.examples]
        return plan_batches(sizes, self.settings.batch_size, self.settings.seed, epoch)

    def _finish_epoch(self) -> dict[str, float]:
        run = self.run
        run.epoch, run.step = run.epoch + 1, 0
        row = {"epoch": float(run.epoch), "train_loss": run.loss_sum / self.steps_per_epoch}
        row["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        row |= self._validated()
        run.loss_sum = 0.0
        row["seconds"] = round(self._count_seconds(), 3)
        run.rows.append(row)
        self._save()
        return row

    def _validated(self) -> dict[str, float]:
        scores = self.validator.score(self.network)
        better = is_better(scores, self.run.best)
        if better:
            weights = {
                name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()
            }
            self.run.best, self.run.best_weights, self.run.stale_epochs = scores, weights, 0
        else:
            self.run.stale_epochs += 1
        return scores | {"best": float(better)}

    def _count_seconds(self) -> float:
        now = self.clock()
        self.run.seconds += now - self._counted_at
        self._counted_at = now
        return self.run.seconds

    def _save(self) -> None:
        self._saved_at = self.clock()
        self._count_seconds()
        parts = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_state(self.state_path, self.run, parts, self.fingerprint())


def _told_apart(batcher: Batcher) -> list[list[str]]:
    """Return the id of each slide, and a digest of its report."""
    return [[one.id, sha256_hex(one.report.encode("utf-8", "replace"))] for one in batcher.examples]


def _summary(row: dict[str, float]) -> str:
    return (
        f"epoch {row['epoch']:.0f}: train_loss {row['train_loss']:.4f}, val_map {row['val_map']:.4f}, "
        f"seconds {row['seconds']:.0f}" + (" *" if row["best"] else "")
    )

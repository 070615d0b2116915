"""The training loop: batches in, weights out. Stopping and resuming anywhere does not change the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.models.histgen import HistGen
from histgen_lib.training.checkpoint import RunState, load_state, save_state
from histgen_lib.training.data import Batch, Example, augment_rng, collate, plan_batches, prepare, share_of
from histgen_lib.training.distributed import Group
from histgen_lib.training.optim import autocast, make_optimizer, make_scaler, make_schedule
from histgen_lib.training.report.settings import TrainSettings
from histgen_lib.training.report.small_data import FieldValues, ProbedHistGen
from histgen_lib.training.report.validation import Validator, is_better
from histgen_lib.training.tracking import MetricsLog, TrainProgress

_STEP_STREAM = 2_654_435_761  # spreads (seed, epoch, step, rank) over the generator's seeds


@dataclass
class Loop:
    """One run over `examples`; state.pt, metrics.csv and TensorBoard files go to `folder`."""

    settings: TrainSettings
    model: HistGen
    examples: Sequence[Example]
    validator: Validator
    group: Group
    folder: Path
    quiet: bool = False
    after_step: Callable[[RunState], None] = lambda run: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        reports = [example.report for example in self.examples] if self.settings.probe_weight else []
        values = FieldValues.of(reports)
        self.labels = torch.tensor([values.label(report) for report in reports], device=self.group.device)
        self.probed = ProbedHistGen(self.model, values).to(self.group.device)
        self.network: nn.Module = self.group.wrap(self.probed)
        self.optimizer = make_optimizer(self.probed, self.settings)
        self.steps_per_epoch = len(self._batches(0))
        self.schedule = make_schedule(self.optimizer, self.settings, self.steps_per_epoch)
        self.scaler = make_scaler(self.settings, self.group.device)
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
        self.probed.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.schedule.load_state_dict(parts["schedule"])
        self.scaler.load_state_dict(parts["scaler"])

    def fit(self) -> RunState:
        """Train to the last epoch, or until validation has not improved for `patience_epochs`."""
        total = self.settings.epochs * self.steps_per_epoch
        done = self.run.epoch * self.steps_per_epoch + self.run.step
        quiet = self.quiet or not self.group.leads
        log = MetricsLog(self.folder, self.run.rows) if self.group.leads else None
        with TrainProgress("train", total, done=done, quiet=quiet) as progress:
            while self.run.epoch < self.settings.epochs and not self._stale():
                self._epoch(progress)
                row = self._finish_epoch()
                if log:
                    log.write(row)
                progress.note(_summary(row))
        if log:
            log.close()
        self.network = self.probed  # drop the DDP wrapper, which holds on to the process group
        return self.run

    def fingerprint(self) -> dict[str, object]:
        """Return what a state must match to be resumed: settings, processes, slides and report lengths."""
        slides = [[example.id, len(example.ids)] for example in self.examples]
        return self.settings.fingerprint() | {"processes": self.group.world, "slides": slides}

    def _epoch(self, progress: TrainProgress) -> None:
        self.network.train()
        for step, rows in self._remaining():
            loss = self._step(step, rows)
            self.run.step = step + 1
            self.run.loss_sum += loss
            progress.advance(1, f"loss {self.run.loss_sum / self.run.step:.4f}")
            self.after_step(self.run)
            if self.clock() - self._saved_at > self.settings.save_every_s:
                self._save()

    def _step(self, step: int, rows: Sequence[int]) -> float:
        torch.manual_seed(self._step_seed(step))
        batch = self._batch(rows).to(self.group.device)
        with autocast(self.settings, self.group.device):
            log_probs, logits = self.network(batch.features, batch.tile_mask, batch.inputs)
        loss = token_loss(log_probs.float(), batch)
        if self.settings.probe_weight:
            loss = loss + self.settings.probe_weight * self.probed.loss(
                logits.float(), self.labels[list(rows)]
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.settings.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.probed.parameters(), self.settings.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.item()

    def _finish_epoch(self) -> dict[str, float]:
        run = self.run
        run.epoch, run.step = run.epoch + 1, 0
        row = {"epoch": float(run.epoch), "train_loss": self.group.mean(run.loss_sum / self.steps_per_epoch)}
        row["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        row |= self._validated()
        run.loss_sum = 0.0
        row["seconds"] = round(self._count_seconds(), 3)
        run.rows.append(row)
        self._save()
        return row

    def _validated(self) -> dict[str, float]:
        scores = self.validator.score(self.model, self.run.epoch) if self.group.leads else {}
        keys = self.validator.keys(self.run.epoch)
        scores = dict(zip(keys, self.group.share([scores.get(key, 0.0) for key in keys]), strict=True))
        better = is_better(scores, self.run.best, self.settings.select_by)
        if better:
            self.run.best, self.run.stale_epochs = scores, 0
            self.run.best_weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        else:
            self.run.stale_epochs += 1
        return scores | {"best": float(better)}

    def _stale(self) -> bool:
        return self.run.stale_epochs >= self.settings.patience_epochs

    def _remaining(self) -> Iterator[tuple[int, list[int]]]:
        batches = self._batches(self.run.epoch)
        return ((step, batches[step]) for step in range(self.run.step, len(batches)))

    def _batches(self, epoch: int) -> list[list[int]]:
        sizes = [example.tiles_hint for example in self.examples]
        batches = plan_batches(sizes, self.settings.batch_size, self.settings.seed, epoch)
        return share_of(batches, self.group.rank, self.group.world)

    def _batch(self, rows: Sequence[int]) -> Batch:
        settings = self.settings
        features = [
            prepare(
                self.examples[row].load(),
                settings.arrangement,
                settings.augment,
                augment_rng(settings.seed, self.run.epoch, row),
            )
            for row in rows
        ]
        return collate(features, [self.examples[row].ids for row in rows])

    def _step_seed(self, step: int) -> int:
        place = (self.run.epoch * self.steps_per_epoch + step) * self.group.world + self.group.rank
        return (self.settings.seed + 1 + place * _STEP_STREAM) % 2**63

    def _count_seconds(self) -> float:
        now = self.clock()
        self.run.seconds += now - self._counted_at
        self._counted_at = now
        return self.run.seconds

    def _save(self) -> None:
        self._saved_at = self.clock()
        self._count_seconds()
        if not self.group.leads:
            return
        parts = {
            "model": self.probed.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_state(self.state_path, self.run, parts, self.fingerprint())


def token_loss(log_probs: Tensor, batch: Batch) -> Tensor:
    """Return the mean negative log-likelihood over all target tokens: log_probs [B, T, V+1] -> scalar."""
    chosen = log_probs.gather(2, batch.targets.unsqueeze(-1)).squeeze(-1)
    return -(chosen * batch.target_mask).sum() / batch.target_mask.sum()


def _summary(row: dict[str, float]) -> str:
    shown = {key: value for key, value in row.items() if key not in {"epoch", "best", "learning_rate"}}
    parts = [
        f"{key} {value:.4f}" if abs(value) < 10 else f"{key} {value:.0f}" for key, value in shown.items()
    ]
    return f"epoch {row['epoch']:.0f}: " + ", ".join(parts) + (" *" if row.get("best") else "")

"""Training the small tile encoder on synthetic slides, where the class of every cell is known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from histgen_lib.cores import cores
from histgen_lib.files import write_atomic
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.checkpoint import RunState, load_state, save_state
from histgen_lib.training.encoder.batches import TileBatch, encode_rows, make_batch, sampling_chances
from histgen_lib.training.encoder.folder import save_encoder
from histgen_lib.training.encoder.heads import TileTeacher, teacher_loss, tile_scores
from histgen_lib.training.encoder.settings import TileTrainSettings
from histgen_lib.training.encoder.tiles import TileSet, cached_tiles
from histgen_lib.training.tracking import MetricsLog, TrainProgress

_LOG_EVERY = 200
_AHEAD = 3
_STATISTICS_TILES = 2048


def train_tile_encoder(settings: TileTrainSettings, *, quiet: bool = False) -> dict[str, float]:
    """Train, or resume training, and write the encoder's folder; return the scores on validation tiles."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads or cores())
    cv2.setNumThreads(1)
    tiles = cached_tiles(settings, "train", settings.max_slides, quiet=quiet)
    held_out = cached_tiles(settings, "val", settings.val_slides, quiet=quiet)
    run = _Run(settings, tiles, TileTeacher(TileEncoder(settings.dim), tiles.classes))
    run.resume()
    run.fit(quiet=quiet)
    standardise(run.teacher, tiles, settings)
    scores = tile_scores(run.teacher, held_out, settings.batch_size)
    save_encoder(run.teacher, settings)
    write_atomic(settings.run_folder / "scores.json", _json(scores))
    return scores


@dataclass
class _Run:
    settings: TileTrainSettings
    tiles: TileSet
    teacher: TileTeacher
    state: RunState = field(default_factory=RunState)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        self.optimizer = torch.optim.AdamW(self.teacher.parameters(), lr=rate, weight_decay=decay)
        self.chances = sampling_chances(self.tiles)

    def resume(self) -> None:
        path = self.settings.run_folder / "state.pt"
        if path.exists():
            self.state, parts = load_state(path, self._fingerprint())
            self.teacher.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])

    def fit(self, *, quiet: bool) -> None:
        saved = self.clock()
        log = MetricsLog(self.settings.run_folder, self.state.rows)
        steps = TrainProgress("tile encoder", self.settings.steps, done=self.state.step, quiet=quiet)
        self.teacher.train()
        with steps as progress, ThreadPoolExecutor(1) as pool:
            for batch in self._prefetched(pool):
                self.state.loss_sum += self._step(batch)
                self.state.step += 1
                progress.advance(
                    1, f"loss {self.state.loss_sum / ((self.state.step - 1) % _LOG_EVERY + 1):.4f}"
                )
                if self.state.step % _LOG_EVERY == 0:
                    self._note(log)
                if self.clock() - saved > self.settings.save_every_s:
                    self._save()
                    saved = self.clock()
        self._save()
        log.close()

    def _step(self, batch: TileBatch) -> float:
        torch.manual_seed(self.settings.seed + 7919 * (self.state.step + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate_share()
        half = self.settings.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs, dense = self.teacher(batch.pixels, batch.cells.shape[1])
        loss = teacher_loss(self.teacher, outputs.float(), dense.float(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.teacher.parameters(), 5.0)
        self.optimizer.step()
        return loss.item()

    def _rate_share(self) -> float:
        """Return the share of the learning rate: linear warm-up, then cosine to zero."""
        done = self.state.step / self.settings.steps
        return min(1.0, (done + 1e-3) / self.settings.warmup_share) * 0.5 * (1 + math.cos(math.pi * done))

    def _prefetched(self, pool: ThreadPoolExecutor) -> Iterator[TileBatch]:
        """Make batches in a second thread while the network computes (OpenCV releases the GIL)."""
        steps = range(self.state.step, self.settings.steps)
        waiting: list[Future[TileBatch]] = []
        for step in steps:
            waiting.append(pool.submit(make_batch, self.tiles, self.chances, self.settings, step))
            if len(waiting) > _AHEAD:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()

    def _note(self, log: MetricsLog) -> None:
        row = {"epoch": float(self.state.step), "train_loss": self.state.loss_sum / _LOG_EVERY}
        self.state.loss_sum = 0.0
        self.state.rows.append(row)
        log.write(row)

    def _save(self) -> None:
        parts = {"model": self.teacher.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_state(self.settings.run_folder / "state.pt", self.state, parts, self._fingerprint())

    def _fingerprint(self) -> dict[str, Any]:
        return self.settings.fingerprint() | {"tiles": len(self.tiles), "classes": list(self.tiles.classes)}


def standardise(teacher: TileTeacher, tiles: TileSet, settings: TileTrainSettings) -> None:
    """Give features mean 0 and deviation 1 over a sample of the training tiles."""
    rows = np.random.default_rng(settings.seed).permutation(len(tiles))[:_STATISTICS_TILES]
    features = encode_rows(teacher.encoder, tiles, rows, settings.batch_size)
    teacher.standardise(features.mean(dim=0), features.std(dim=0).clamp_min(1e-3))


def _json(scores: dict[str, float]) -> bytes:
    return (json.dumps(scores, indent=1) + "\n").encode()

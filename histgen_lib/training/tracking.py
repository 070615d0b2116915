"""A run's progress on stderr, and its metrics in metrics.csv and TensorBoard files."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from histgen_lib.files import write_atomic
from histgen_lib.names import printable

_PLAIN_EVERY_S = 20.0


class TrainProgress:
    """Shows the steps of one job on stderr; a context manager.

    On a terminal it is a bar with the time left; otherwise a line every 20 s and one per `note`. With `quiet`
    (ranks other than 0, tests) it prints nothing.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        done: int = 0,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._title, self._total, self._done, self._first = title, total, done, done
        self._quiet, self._clock = quiet, clock
        self._started = self._spoken = clock()
        self._bar = self._make_bar() if self._console.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, steps: int = 1, label: str = "") -> None:
        """Count `steps` more; `label` describes the last of them (a loss, a slide's name)."""
        self._done, label = self._done + steps, printable(label)
        if self._bar:
            self._bar.update(self._task, advance=steps, description=f"{self._title} {label}".strip())
        elif self._clock() - self._spoken >= _PLAIN_EVERY_S:
            self._spoken = self._clock()
            self.note(f"{self._done}/{self._total} {label}, {self.time_left()} left")

    def note(self, text: str) -> None:
        """Print a permanent line."""
        if not self._quiet:
            self._console.print(f"{self._title}: {text}", highlight=False)

    def time_left(self) -> str:
        """Estimate the time left at the pace so far: "3:05", or "?" before the first step."""
        fresh = self._done - self._first
        if fresh <= 0:
            return "?"
        left = (self._clock() - self._started) / fresh * max(self._total - self._done, 0)
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes}:{seconds:02d}"

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )


class MetricsLog:
    """Writes one row per epoch. A resumed run passes the rows of its finished epochs: one table."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
        self._path = folder / "metrics.csv"
        self._rows = [dict(row) for row in rows]
        self._board = _board(folder / "tensorboard")
        if self._rows:  # the process may have been killed between saving its state and writing the table
            write_atomic(self._path, _csv(self._rows))

    def write(self, row: Mapping[str, float]) -> None:
        """Add one epoch."""
        self._rows.append(dict(row))
        write_atomic(self._path, _csv(self._rows))
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, int(row["epoch"]))
            self._board.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def _csv(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Format rows under the union of their names, in order of appearance; missing values stay empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _board(folder: Path) -> Any:
    """Open a TensorBoard writer; None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))

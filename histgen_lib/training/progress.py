"""How training tells a person where it is, on stderr: a bar with the time left on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from histgen_lib.names import printable

_PLAIN_EVERY_S = 20.0


class TrainProgress:
    """Counts steps of one job. A context manager; `advance` may be called as often as one likes.

    On a terminal a bar with the time left; otherwise a line every 20 s and one for each `note`. `quiet` says
    nothing (ranks other than 0, tests).
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
        """Count `steps` more; `label` says a word about the last of them (a loss, a slide's name)."""
        self._done, label = self._done + steps, printable(label)
        if self._bar:
            self._bar.update(self._task, advance=steps, description=f"{self._title} {label}".strip())
        elif self._clock() - self._spoken >= _PLAIN_EVERY_S:
            self._spoken = self._clock()
            self.note(f"{self._done}/{self._total} {label}, {self.time_left()} left")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(f"{self._title}: {text}", highlight=False)

    def time_left(self) -> str:
        """How long the rest takes at the pace so far: "3:05", or "?" before the first step."""
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

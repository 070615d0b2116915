"""A progress bar on stderr, shown only on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from histgen_lib.cli.output import err

STAGES = {
    "open": "reading the slide",
    "grid": "finding tissue",
    "encode": "encoding tiles",
    "generate": "writing the draft",
    "render": "drawing the page",
}


@contextmanager
def progress_bar(title: str, unit: str = "") -> Iterator[StageBar]:
    """Show a bar while the block runs; it disappears at the end."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
        disable=not err().is_terminal,
    ) as bar:
        yield StageBar(bar, title)


class StageBar:
    """A pipeline's Progress callable: one bar, whose text names the stage."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar, self._title = bar, title
        self._task = bar.add_task(title, total=None)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are finished."""
        label = f"{self._title}: {STAGES.get(stage, stage)}"
        self._bar.update(self._task, description=label, completed=done, total=total)

"""How a job tells its caller how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often, from the thread that runs the job; must return fast and not raise.

    `stage` is one of "open", "grid", "encode", "generate", "render", "store"; `done` and `total` count tiles
    while encoding and are 0 and 1, then 1 and 1, for the other stages.
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` steps of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""

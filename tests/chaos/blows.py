"""Blows that a stream must survive: what is struck, at which moment of the run, and that it really was."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness import Stream, kind

MOMENTS = {
    "tiler": ("any", "grid", "encode", "written"),
    "reporter": ("any", "written"),
}
"""Stages of /status that last long enough to be met; "written": a result has just appeared."""


@dataclass(frozen=True)
class Blow:
    """`strike` is called once `due` says that the moment is there, and says whether it hit."""

    name: str
    due: Callable[[], bool]
    strike: Callable[[], bool]


def fell(stream: Stream, ends: int, *rows: Sequence[Blow], timeout_s: float = 300.0) -> Counter[str]:
    """Strike the blows of each row in order, the rows beside one another; return how many fell of each name.

    Ends when all fell, or when `ends` slides have ended: then there is nothing left to strike.
    """
    waiting = [list(row) for row in rows]
    struck: Counter[str] = Counter()

    def turn() -> bool:
        for row in waiting:
            if row and row[0].due() and row[0].strike():
                struck[row.pop(0).name] += 1
        return not any(waiting) or stream.ended() >= ends

    stream.until(turn, timeout_s, "all blows fell")
    return struck


def on_worker(stream: Stream, label: str, *, after: int, moment: str) -> Blow:
    """Kill a worker, once it has made `after` results and is at `moment`; start it again."""

    def strike() -> bool:
        stream.services[label].kill()
        stream.restart(label)
        return True

    return Blow(kind(label), lambda: at(stream, label, after, moment), strike)


def on_child(stream: Stream, label: str, *, after: int, moment: str) -> Blow:
    """Kill the child process of a worker in the same way; the worker itself replaces it."""

    def strike() -> bool:
        return stream.services[label].kill_child()

    return Blow(f"{kind(label)}'s child", lambda: at(stream, label, after, moment), strike)


def at(stream: Stream, label: str, after: int, moment: str) -> bool:
    """Whether a worker has made `after` results and is at `moment` of a further one."""
    service = stream.services[label]
    if not service.url or stream.finished(label) < after:
        return False
    if moment == "written":
        return True
    stage = service.in_flight().get("stage", "")
    return bool(stage) if moment == "any" else bool(stage == moment)


def on_workers(stream: Stream, chance: random.Random, *, until: int, each: int) -> list[list[Blow]]:
    """Draw `each` blows for every worker and for every worker's child, at moments among `until` results."""
    rows = []
    for label in stream.services:
        afters = sorted(chance.sample(range(until), 2 * each))
        makers = [on_worker, on_child] * each
        chance.shuffle(makers)
        moments = MOMENTS[kind(label)]
        rows.append(
            [
                make(stream, label, after=after, moment=chance.choice(moments))
                for make, after in zip(makers, afters, strict=True)
            ]
        )
    return rows

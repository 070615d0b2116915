"""Faults that a stream must survive: what to kill, at which moment, and whether it was killed."""

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
"""Stages of /status that last long enough to be caught; "written": a result has just appeared."""


@dataclass(frozen=True)
class Fault:
    """`inject` is called once `due` is true, and returns whether the fault took effect."""

    name: str
    due: Callable[[], bool]
    inject: Callable[[], bool]


def inject_all(stream: Stream, ends: int, *rows: Sequence[Fault], timeout_s: float = 300.0) -> Counter[str]:
    """Inject the faults of each row in order, the rows side by side; count the injected ones by name.

    Return when all are injected, or when `ends` slides have ended and nothing is left to kill.
    """
    waiting = [list(row) for row in rows]
    injected: Counter[str] = Counter()

    def turn() -> bool:
        for row in waiting:
            if row and row[0].due() and row[0].inject():
                injected[row.pop(0).name] += 1
        return not any(waiting) or stream.ended() >= ends

    stream.until(turn, timeout_s, "all faults injected")
    return injected


def on_worker(stream: Stream, label: str, *, after: int, moment: str) -> Fault:
    """Kill and restart a worker once it has made `after` results and is at `moment`."""

    def inject() -> bool:
        stream.services[label].kill()
        stream.restart(label)
        return True

    return Fault(kind(label), lambda: at(stream, label, after, moment), inject)


def on_child(stream: Stream, label: str, *, after: int, moment: str) -> Fault:
    """Kill a worker's child process in the same way; the worker itself replaces it."""

    def inject() -> bool:
        return stream.services[label].kill_child()

    return Fault(f"{kind(label)}'s child", lambda: at(stream, label, after, moment), inject)


def at(stream: Stream, label: str, after: int, moment: str) -> bool:
    """Return whether a worker has made `after` results and is at `moment` of the next one."""
    service = stream.services[label]
    if not service.url or stream.finished(label) < after:
        return False
    if moment == "written":
        return True
    stage = service.in_flight().get("stage", "")
    return bool(stage) if moment == "any" else bool(stage == moment)


def on_workers(stream: Stream, chance: random.Random, *, until: int, each: int) -> list[list[Fault]]:
    """Draw `each` faults for every worker and every worker's child, within the first `until` results."""
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

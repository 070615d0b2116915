"""What the services of this machine say of themselves: found through the run folder, asked over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histgen_lib.client.asking import get_json
from histgen_lib.errors import FatalError
from histgen_lib.secret import read_secret


@dataclass(frozen=True)
class InFlight:
    """The job a worker has in hand; `done` of `total` steps of `stage` are finished."""

    slide_id: str
    event_id: str
    attempt: int
    stage: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class WorkerState:
    """One service process. `answers`: it does; `missing`: what it needs and does not have, with a code.

    `set_aside`: how many slides wait to be tried again while others pass them, by code.
    """

    name: str
    pid: int
    url: str
    answers: bool = False
    phase: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    in_flight: InFlight | None = None
    jobs_done: int = 0
    set_aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it could do a job now."""
        return self.answers and not self.missing and self.phase not in ("starting", "stopping")


def look(run_dir: Path) -> list[WorkerState]:
    """Ask every service that runs and announced itself in `run_dir`; who does not answer is told as such.

    Each is shown the token that it said it wants. What a killed service had announced is passed over.
    """
    if not run_dir.is_dir():
        return []
    told = [one for path in sorted(run_dir.glob("*.json")) if (one := _announced(path))]
    found = [(worker, token_file) for worker, token_file in told if _runs(worker.pid)]
    try:
        with ThreadPoolExecutor(max(1, len(found))) as askers:
            return list(askers.map(lambda one: _ask(*one), found))
    except RuntimeError:  # the system has no thread to spare now
        return [worker for worker, _ in found]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another account's
    return True


def _announced(path: Path) -> tuple[WorkerState, Path] | None:
    try:
        told = json.loads(path.read_bytes())
        return WorkerState(str(told["name"]), int(told["pid"]), str(told["url"])), Path(told["token_file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it left in this moment


def _ask(worker: WorkerState, token_file: Path) -> WorkerState:
    try:
        told = get_json(f"{worker.url}/status", read_secret(token_file))
        return WorkerState(
            worker.name,
            worker.pid,
            worker.url,
            answers=True,
            phase=str(told["phase"]),
            missing={str(name): str(code) for name, code in told["missing"].items()},
            in_flight=_in_flight(told["in_flight"]),
            jobs_done=int(told["jobs_done"]),
            set_aside=_set_aside(told),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FatalError):
        return worker


def _set_aside(told: Mapping[str, Any]) -> dict[str, int]:
    codes = told["set_aside"]["codes"] if "set_aside" in told else {}  # the gateway has none
    return {str(code): int(count) for code, count in codes.items()}


def _in_flight(told: Any) -> InFlight | None:
    if not told:
        return None
    return InFlight(
        slide_id=str(told["slide_id"]),
        event_id=str(told["event_id"]),
        attempt=int(told["attempt"]),
        stage=str(told["stage"]),
        done=int(told["done"]),
        total=int(told["total"]),
        seconds=float(told["seconds"]),
    )

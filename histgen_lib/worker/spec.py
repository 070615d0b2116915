"""What a service says about its worker."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.silence import LIMIT_S
from histgen_lib.runtime.web.guard import Limits
from histgen_lib.worker.handler import Handler

OPENED = "encode"
"""The stage in which a job has its slide's first tiles."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker: which events it takes, the job it does with each, and how much patience it has.

    `name` labels its metrics and log lines; `group` is the consumer group its processes share. `make_handler`
    is pickled and called once in each child process (a function of a module, or a functools.partial of one).
    `token_file`: holds the token that /status wants; made if it is not there. `deadline_s`: what a job may
    take. `opening_s`: what it may take until it tells of a stage called `OPENED`, if it has any.
    `memory_bytes`: what the process that does it may hold (see `histgen_lib.worker.memory`). `max_attempts`:
    how often a job may crash, hang or fail unforeseen before its event is given up. `grace_s`: what a running
    job may still take after SIGTERM (let whoever sends the signal wait ten seconds more). `frozen_s`: after
    so long a job's process that was stopped where it stands is replaced; 0: never. `start_s`: what
    `make_handler` may take. `host`, `port`: where metrics and health are served; port 0 takes a free one,
    told in `run_dir`/<name>-<pid>.json; `http`: what those who ask are granted. `letters`, `retries`: codes
    of dead letters and of retries that its counters show at 0 from the start.
    """

    name: str
    topic: str
    group: str
    make_handler: Callable[[], Handler]
    token_file: Path
    deadline_s: float = 1800.0
    opening_s: float = math.inf
    memory_bytes: float = math.inf
    max_attempts: int = 5
    grace_s: float = 20.0
    frozen_s: float = LIMIT_S
    start_s: float = 300.0
    host: str = "127.0.0.1"
    port: int = 0
    http: Limits = field(default_factory=Limits)
    run_dir: Path | None = None
    backoff: Backoff = field(default_factory=Backoff)
    letters: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What its dead-letter events name as their source."""
        return f"/histgen/{self.name}"

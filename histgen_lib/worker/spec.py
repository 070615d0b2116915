"""What a service tells its worker."""

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

    `name`: in metrics and log lines. `group`: the consumer group that its processes share. `make_handler`: is
    pickled and called once in each child process, so it is a function of a module, or a functools.partial of
    something that can be pickled. `token_file`: holds the token that /status requires; created if missing.
    `deadline_s`: how long a job may take. `opening_s`: how long until it reports a stage called `OPENED`, if
    it has one. `memory_bytes`: how much its process may hold (see `histgen_lib.worker.memory`).
    `max_attempts`: after so many crashes, hangs or unexpected errors an event is given up. `grace_s`: how
    long a running job may go on after SIGTERM; whatever sends the signal should wait ten seconds more.
    `frozen_s`: a job's process that has been stopped (SIGSTOP) for so long is replaced; 0: never. `start_s`:
    how long `make_handler` may take. `host`, `port`: where metrics and health are served; port 0 takes a free
    one, which `run_dir`/<name>-<pid>.json names. `http`: the limits on its clients. `letters`, `retries`:
    codes of dead letters and of retries that its counters show at 0 from the start. `drafts`: it publishes
    drafts, whose age since the scan is measured.
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
    drafts: bool = False

    @property
    def source(self) -> str:
        """The source of its dead-letter events."""
        return f"/histgen/{self.name}"

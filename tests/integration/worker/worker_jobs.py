"""A job whose course the slide's id decides, and a worker process that does it.

"<kind>-<anything>": ok, crash, hang, bad, fatal, odd, away and share (while a file of that name lies in the
folder: what all need, and what only such slides do), big (more than an event can tell), held (until the file
go/<slide id> lies there), once-crash, once-hang (the first time; hang after having written), greedy (takes
memory in C code, which never asks Python), refused (is not given what it asks for), unopened (hangs before it
has a tile), hoard (keeps 300 MiB after its end, as a library that leaks).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from histgen_lib.bus import BusSettings
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.events import Event, ReportDrafted
from histgen_lib.pipeline.job import ModelInUse, Progress
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.address import Address
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.telemetry import configure_logging, get_logger
from histgen_lib.worker import Outcome, WorkerSpec, run_worker

PATIENT = "DOE^JANE"
MUCH_BYTES, HOARD_BYTES, PIECE_BYTES = 800 << 20, 300 << 20, 4 << 20


@dataclass
class ScriptedJob:
    folder: Path

    def __post_init__(self) -> None:
        self._store = open_store(StorageSettings(f"file:{self.folder}/store"))

    def find(self, event: Event) -> Outcome | None:
        return self._outcome(event) if self._store.head(_key(event)) else None

    def handle(self, event: Event, progress: Progress) -> Outcome:
        times = self._note(event)
        kind = event.key.rsplit("-", 1)[0]
        if kind == "unopened":
            progress("open", 0, 1)
            time.sleep(3600)
        progress("encode", times, 10)
        get_logger().info("The job runs.")
        self._act(kind, times, event)
        _strain(kind)
        self._store.put(_key(event), f"draft of {event.key}".encode())
        if event.key.startswith("once-hang") and times == 1:
            time.sleep(3600)
        return self._outcome(event)

    def ready(self) -> list[str]:
        return ["triton"] if (self.folder / "away").exists() else []

    def models(self) -> list[ModelInUse]:
        return [ModelInUse("toy", "none", "0" * 12, "python")]

    def _act(self, kind: str, times: int, event: Event) -> None:
        if kind == "crash" or (kind == "once-crash" and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "hang":
            time.sleep(3600)
        elif kind == "bad":
            raise InvalidInputError("slide-damaged", "It is damaged.", hint="Copy it again.")
        elif kind == "fatal":
            raise FatalError("model-missing", "There is no model.")
        elif kind == "odd":
            raise KeyError(PATIENT)
        elif kind == "away" and (self.folder / "away").exists():
            raise TransientError("inference-unavailable", "The model server is away.")
        elif kind == "share" and (self.folder / "share").exists():
            raise TransientError("slide-away", "The share is away.")
        elif kind == "held":
            while not (self.folder / "go" / event.key).exists():
                time.sleep(0.01)

    def _note(self, event: Event) -> int:
        """Note the call in a file; return how many there were."""
        path = self.folder / "calls" / event.key
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as calls:
            calls.write(f"{os.getpid()}\n")
        return len(path.read_text().splitlines())

    @staticmethod
    def _outcome(event: Event) -> Outcome:
        draft_key = _key(event) * (100_000 if event.key.startswith("big") else 1)
        data = ReportDrafted(event.key, "d" * 64, draft_key, abstained=False)
        return Outcome([event.then(data, source="/histgen/test", now=event.time)], {"stage:encode": 0.5})


def _strain(kind: str) -> None:
    if kind == "greedy":
        _take(MUCH_BYTES)
        time.sleep(3600)
    elif kind == "hoard":
        _take(HOARD_BYTES)
    elif kind == "refused":
        bytearray(1 << 60)


def _take(size_bytes: int) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    for _ in range(size_bytes // PIECE_BYTES):
        libc.memset(libc.malloc(PIECE_BYTES), 1, PIECE_BYTES)


def _key(event: Event) -> str:
    return f"reports/{event.key}/draft.json"


def make_job(folder: Path) -> ScriptedJob:
    """Make the job, unless a file says how that ends."""
    scripted = folder / "setup"
    if scripted.exists():
        kind = scripted.read_text()
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "odd":
            raise KeyError(PATIENT)
        raise {"away": TransientError, "fatal": FatalError, "bad": InvalidInputError}[kind](
            "told-so", "As scripted."
        )
    return ScriptedJob(folder)


class Options(TypedDict, total=False):
    """What a test may change of a worker: parts of its WorkerSpec, and the broker's session."""

    deadline_s: float
    opening_s: float
    memory_bytes: float
    max_attempts: int
    grace_s: float
    frozen_s: float
    port: int
    session_s: float


def run(folder: Path, stop: Stop | None = None, **options: Unpack[Options]) -> int:
    """Run a worker on the broker and store in `folder`; return its exit code."""
    bus_settings, port = bus(folder, options.pop("session_s", 2.0)), options.pop("port", 0)
    values = {"deadline_s": 60.0, "grace_s": 30.0, **options}
    spec = WorkerSpec(
        "tiler",
        {"slide.scanned": f"tilers-{folder.name}"},
        partial(make_job, folder),
        Address("127.0.0.1", port, folder / "token", folder / "run"),
        backoff=Backoff(0.01, 0.05),
        **values,
    )
    return run_worker(spec, bus=bus_settings, storage=storage(folder), stop=stop)


def bus(folder: Path, session_s: float = 2.0) -> BusSettings:
    """Return the embedded broker, unless a file names another."""
    named = folder / "broker"
    url = named.read_text() if named.exists() else f"embedded:{folder}/bus.db"
    return BusSettings(url, partitions=4, session_s=session_s)


def storage(folder: Path) -> StorageSettings:
    return StorageSettings(f"file:{folder}/store")


if __name__ == "__main__":
    configure_logging("tiler")
    sys.exit(run(Path(sys.argv[1]), **json.loads(sys.argv[2])))

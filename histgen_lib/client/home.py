"""The folder a local stack lives in: who runs there, how it is reached, and keeping other accounts out."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histgen_lib.bus import BusSettings
from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.storage import INCOMING, StorageSettings, folder_of

SCHEMA = 1
_OWN = frozenset({"inbox", "objects", "secrets"})
"""What a folder may hold before a stack first lives in it: slides that wait, earlier drafts, its token."""
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.05
_OTHERS, _ANYBODY = 0o077, 0o007
_FOREIGN = "belongs to another account"


def default_home(environment: Mapping[str, str]) -> Path:
    """Return where a stack lives by default: $HISTGEN_HOME, else the user's data folder."""
    if home := environment.get("HISTGEN_HOME"):
        return Path(home)
    data = environment.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "histgen"


@dataclass(frozen=True)
class StackRecord:
    """stack.json: how to reach the stack, and what its broker and store are. It holds no secrets.

    It stays when the stack stops, so that the store can still be read. `roots`: what slides may be taken
    from; empty in the record of an older version, which did not write them.
    """

    pid: int
    gateway: str
    bus: str
    store: str
    store_endpoint: str | None
    inference: str
    watch: str
    roots: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"schema": SCHEMA, **asdict(self)}


class StackHome:
    """Names every place in the folder; only `locked` creates any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.logs, self.run_dir = self.folder / "logs", self.folder / "run"
        self.record_path = self.folder / "stack.json"
        self._lock = self.folder / "stack.lock"

    def log(self, name: str) -> Path:
        """Return where a process of the stack writes its log."""
        return self.logs / f"{name}.log"

    @property
    def index_path(self) -> Path:
        """The index of slides (SQLite), from which their states are read at once."""
        return self.folder / "index.db"

    @property
    def token_path(self) -> Path:
        """The file with the token that the services of this stack ask for."""
        return self.secret("token")

    @property
    def kafka_client_path(self) -> Path:
        """The file that says how to reach a Kafka that was started here, password included."""
        return self.folder / "kafka" / "client.json"

    def secret(self, name: str) -> Path:
        """Return where a secret of this stack lies."""
        return self.folder / "secrets" / name

    @property
    def lived_in(self) -> bool:
        """Whether a stack ever lived here."""
        return self._lock.exists()

    @contextmanager
    def locked(self, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Keep the folder for this process alone while the block runs.

        Raises FatalError: "stack-running" if a stack runs here, "stack-home" if the folder cannot be used.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)  # drafts are confidential
            self._close_to_others()
            for folder in (self.logs, self.run_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
            lock = self._lock.open("a")
        except OSError as error:
            raise FatalError(
                "stack-home",
                f"The stack's folder {self.folder} cannot be used: {error.strerror or error}.",
                hint="Give another one with --home.",
            ) from error
        with lock:
            if not _take_exclusive(lock.fileno(), sleep):
                raise FatalError(
                    "stack-running",
                    f"A stack is already running in {self.folder}.",
                    hint="See it with histgen watch, stop it, or give another folder with --home.",
                )
            for stale in self.run_dir.rglob("*.json"):
                stale.unlink(missing_ok=True)
            yield

    def _close_to_others(self) -> None:
        """Close a folder that already existed to other accounts. Raises OSError, FatalError("stack-home")."""
        why = close_to_others(self.folder, ours=self._is_home)
        if why == _FOREIGN:
            raise self._unusable(why, "Give a folder that belongs to this account with --home.")
        if why:
            raise self._unusable(
                why, "Give a new folder with --home, or chmod 700 this one if nobody else needs it."
            )

    def _is_home(self) -> bool:
        return self.lived_in or not {entry.name for entry in self.folder.iterdir()} - _OWN

    def _unusable(self, why: str, hint: str) -> FatalError:
        return FatalError("stack-home", f"The stack's folder {self.folder} {why}.", hint=hint)

    def running(self) -> bool:
        """Return whether a stack runs here: it holds the lock, which a dead one cannot."""
        try:
            with self._lock.open() as lock:
                return not _take(lock.fileno(), fcntl.LOCK_SH)
        except OSError:
            return False

    def write(self, record: StackRecord) -> None:
        """Write stack.json."""
        write_atomic(self.record_path, json.dumps(record.to_json(), indent=2).encode() + b"\n")

    def read(self) -> StackRecord | None:
        """Return what stack.json says; None if no stack of this version ever ran here."""
        try:
            value = json.loads(self.record_path.read_bytes())
            if value.pop("schema") != SCHEMA:
                return None
            return StackRecord(**{**value, "roots": tuple(value.get("roots", ()))})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def _take_exclusive(descriptor: int, sleep: Callable[[float], None]) -> bool:
    """Take the lock; a process that checks whether a stack runs may hold it for a moment."""
    for _ in range(_LOCK_TRIES):
        if _take(descriptor, fcntl.LOCK_EX):
            return True
        sleep(_LOCK_PAUSE_S)
    return False


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def close_to_others(path: Path, *, ours: Callable[[], bool]) -> str:
    """Remove other accounts' rights to a folder or file; return why that is impossible, or "".

    A folder that holds more than `ours` is left alone: its contents may be meant for others. Raises OSError.
    """
    state = path.stat()
    if state.st_uid != os.geteuid():
        return _FOREIGN
    if not state.st_mode & _OTHERS:
        return ""
    if not ours():
        return "is open to other accounts, and holds files that no stack put there"
    with suppress(OSError):
        path.chmod(stat.S_IMODE(state.st_mode) & ~_OTHERS)
    if path.stat().st_mode & _OTHERS:
        return "is open to other accounts, and its file system keeps it so"
    return ""


def close_store(storage: StorageSettings) -> None:
    """Close a store's folder to others. Raises OSError, FatalError("store-open")."""
    if folder := folder_of(storage):
        why = close_to_others(folder, ours=lambda: _is_store(folder))
        _require(folder, why, "Give it another --store.")


def close_bus(bus: BusSettings) -> None:
    """Close the embedded broker's file, and those SQLite keeps beside it. Raises as `close_store`."""
    if not bus.url.startswith("embedded:"):
        return
    for ending in ("", "-wal", "-shm"):
        path = Path(bus.url.removeprefix("embedded:") + ending)
        if path.exists():
            _require(path, close_to_others(path, ours=lambda: True), "Give it another --broker.")


def _is_store(folder: Path) -> bool:
    return (folder / INCOMING).is_dir() or not any(folder.iterdir())


def _require(path: Path, why: str, alternative: str) -> None:
    """Refuse what others can read. An administrator may have lent us a folder that nobody else can enter."""
    if not why or (why == _FOREIGN and not path.stat().st_mode & _ANYBODY):
        return
    raise FatalError(
        "store-open",
        f"{path} {why}, but the drafts and events in it are confidential.",
        hint=f"Remove other accounts' rights (chmod go-rwx, or mount it with umask=077). {alternative}",
    )

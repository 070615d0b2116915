"""A real Triton Inference Server on this machine: a child process, reached by a socket of this account's only.

A loopback port is open to everybody on the machine, and so is a secret in a command line
(docs/decisions/0013).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_hex

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.inference import TritonServer, is_live, shared_memory
from histgen_lib.inference.shared_memory import TENSORS
from histgen_lib.inference.wire import check_numpy, decode_error
from histgen_lib.secret import OWNER_ONLY
from histgen_lib.stack.children import describe_exit, dying_with_parent, end, is_retryable, written_since
from histgen_lib.stack.processes import Process
from histgen_lib.stack.stubs import KIND, PROGRAM, FrozenStubs, end_left_over, stubs_of
from histgen_lib.stack.unshared import command_unshared

_SOCKET_KIND = "door"
_LONGEST_BYTES = 107
"""Of a socket's path: what the kernel's `sun_path` has room for."""
_SOCKET = "grpc:1"


class PrivateSocket:
    """A socket's place. It is named at once, for those who will connect; `make` makes the folder around it.

    The folder goes with this object, not with its server: nobody can take the name while that is restarted.
    Raises FatalError("triton-door") where no folder for temporary files is safe from other accounts.
    """

    def __init__(self) -> None:
        name = f"{shared_memory.new_name(_SOCKET_KIND)}-{token_hex(4)}"
        self.folder = _base(len(f"/{name}/{_SOCKET}")) / name
        self.socket = self.folder / _SOCKET
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)  # at our exit at the latest

    def make(self) -> None:
        """Make the folder, or see that the one of that name is ours. Raises FatalError("triton-door")."""
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            state = self.folder.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
                raise _unsafe(f"{self.folder} was made by somebody else") from None
        except OSError as error:
            raise _unsafe(f"{self.folder} cannot be made ({error.strerror})") from error


def clear_sockets() -> None:
    """Remove the folders that processes made which have ended since."""
    for base in _bases():
        for folder in base.glob(f"histgen-{_SOCKET_KIND}-*"):
            if shared_memory.is_orphan(folder.name):
                shutil.rmtree(folder, ignore_errors=True)  # another account's stays: it cannot be removed


def _bases() -> Iterator[Path]:
    """Name folders for temporary files; not the login session's, which goes when its user logs out."""
    yield Path(tempfile.gettempdir()).resolve()
    yield Path("/tmp")


def _base(rest_bytes: int) -> Path:
    for base in _bases():
        if len(os.fsencode(base)) + rest_bytes <= _LONGEST_BYTES and _safe(base):
            return base
    raise _unsafe("others may rename what lies there, or its name is too long")


def _safe(base: Path) -> bool:
    """Tell whether nobody else can put a folder of theirs in the place of ours."""
    return base.is_dir() and all(_holds(folder.stat()) for folder in (base, *base.parents))


def _holds(state: os.stat_result) -> bool:
    kept = not state.st_mode & 0o022 or bool(state.st_mode & stat.S_ISVTX)
    return kept and state.st_uid in {0, os.geteuid()}


def _unsafe(why: str) -> FatalError:
    return FatalError(
        "triton-door",
        f"There is no folder for tritonserver's socket that is safe from other accounts: {why}.",
        hint="Set TMPDIR to a folder with a short name that only this account may write to.",
    )


_START_S, _MOST_START_S = 90.0, 960.0
"""What a start may take; twice as long the next time where that was too short for this machine."""
_DRAIN_S = 120
"""How long a stopping server may finish what it has begun."""
_SITE = Path(__file__).resolve().parents[2]
"""Where histgen_lib lies: the models import it from there."""
_LOOK_S = 0.05
_NOT_YET = frozenset({"inference-model-unknown", "inference-not-triton"})
"""What a server that is coming up may be taken for."""
_LAST_S = 3.0
"""A server whose models' processes have all ended is gone within so long, or never."""


class _Rise:
    """A server that is coming up, by `end_at`, and its models' processes."""

    def __init__(self, process: subprocess.Popen[bytes], end_at: float) -> None:
        self._process, self._end_at = process, end_at
        self._stubs: set[int] = set()
        self._lost_at: float | None = None

    @property
    def lost(self) -> bool:
        """Whether a model's process ended, which the server would not start again, and the server goes on."""
        stubs = set(stubs_of(self._process.pid))
        if self._lost_at is None and self._stubs - stubs:
            self._lost_at = time.monotonic()
        self._stubs |= stubs
        lasts = self._lost_at is not None and time.monotonic() - self._lost_at > _LAST_S
        return lasts and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it will not come up any more, or not in time."""
        return self._process.poll() is not None or self.lost or time.monotonic() > self._end_at


class TritonProcess(Process):
    """One tritonserver of our own, reached by this account only; its address outlives `kill` and `start`.

    `repository` holds the models (`histgen_lib.export.export_local` writes one); all of them are loaded.
    `home` is the environment that `deploy/setup.sh triton` makes. Whoever reaches a Triton can have it run
    any Python, so it listens nowhere but at a `PrivateSocket`, and what it shares is for its owner only. The server
    dies with the thread that called `start`, and its models' processes with the server.
    """

    def __init__(self, repository: Path, home: Path, *, log: Path) -> None:
        self._repository, self._home, self._log = repository.absolute(), home.absolute(), log
        self._door = PrivateSocket()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_s, self._was_up, self._log_start = _START_S, False, 0
        self._regions = f"{shared_memory.new_name(KIND)}-"
        self._frozen_stubs = FrozenStubs()

    @property
    def url(self) -> str:
        """What `open_inference` takes."""
        return f"triton://{self._door.socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """Where it writes what it has to say."""
        return self._log

    @property
    def models(self) -> list[str]:
        """Names of the repository's models."""
        return sorted(path.parent.name for path in self._repository.glob("*/config.pbtxt"))

    def start(self, ended: threading.Event | None = None) -> None:
        """Start, and return when every model has answered, or when `ended` is set.

        Raises FatalError: "triton-missing" without the server, "triton-numpy" when its environment has a
        numpy that makes every answer empty, "triton-door" without a safe place for its socket,
        "triton-failed" when it refuses to run, and what the models raise; TransientError("triton-ended") when
        it or a model's process was killed, when it is slow, or lacks what may be had later.
        """
        if self.pid is not None:
            return
        server = self._server()
        self._clear()
        self._door.make()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            command = [str(server / "bin" / "tritonserver"), *self._options(server)]
            self._process = subprocess.Popen(
                dying_with_parent(command_unshared(command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(server),
                cwd=self.log_path.parent,  # the stubs import from here first: nothing may lie in the way
                # Ctrl-C in a terminal reaches every process of the group: whole reports shall be finished.
                start_new_session=True,
                umask=OWNER_ONLY,  # of the socket, and of what Python models share with the server: pixels
            )
        try:
            self._await(self._process, ended or threading.Event())
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Let it finish what it has begun, and stop it."""
        if self._process is not None:
            self._process.terminate()
            _drain(self._process)
            self._process = None
        self._clear()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._clear()

    def stub_pids(self, model: str) -> list[int]:
        """Find the processes that run a model's Python."""
        return [pid for pid, command in stubs_of(self.pid).items() if self._runs(model, command)]

    def _runs(self, model: str, command: Sequence[str]) -> bool:
        """Whether a stub's command says that it runs a model."""
        return any(f"{self._repository}/{model}/" in part for part in command)

    def _clear(self) -> None:
        """Remove what a server leaves that was killed."""
        clear_left_over()
        end_left_over(self._regions)
        shared_memory.unlink(self._regions)

    def _server(self) -> Path:
        """Find the server's folder in the wheel."""
        for server in self._home.glob("lib/python3*/site-packages/pytriton/tritonserver"):
            if (server / "backends" / "python" / PROGRAM).is_file():
                for numpy in server.parents[1].glob("numpy-*.dist-info"):
                    check_numpy(numpy.name.split("-")[1].removesuffix(".dist"))
                return server
        raise FatalError(
            "triton-missing", "There is no tritonserver here.", hint="Run: deploy/setup.sh triton"
        )

    def _options(self, server: Path) -> list[str]:
        options = {
            "model-repository": self._repository,
            "model-control-mode": "explicit",  # the supervisor unloads and loads
            "load-model": "*",
            "backend-directory": server / "backends",
            "pinned-memory-pool-byte-size": 0,  # for GPUs
            "exit-timeout-secs": _DRAIN_S,
            "log-format": "ISO8601",
            **self._listening(),
            **{f"allow-{other}": "false" for other in ("http", "metrics", "sagemaker", "vertex-ai")},
        }
        backend = {
            "shm-region-prefix-name": self._regions,
            "shm-default-byte-size": 16 << 20,
            "shm-growth-byte-size": 16 << 20,
        }
        return [
            "--disable-auto-complete-config",  # ours are complete; it would start every stub twice
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in backend.items()),
        ]

    def _listening(self) -> dict[str, object]:
        """Name the socket as Triton puts an address together: what is before the last colon, and a number."""
        address, _, number = str(self._door.socket).rpartition(":")
        return {"grpc-address": f"unix:{address}", "grpc-port": number}

    def _environment(self, server: Path) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "LD_LIBRARY_PATH": f"{self._home / 'lib'}:{server.parents[1] / 'nvidia_pytriton.libs'}",
            # The stub finds its environment by the python3 that comes first.
            "PATH": f"{self._home / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(_SITE),  # not seen by the stub's Python itself, but by our models
        }

    def _await(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        rise = _Rise(process, time.monotonic() + self._start_s)
        with TritonServer(self.url, shared_memory="off") as client:
            for model in self.models:
                while (error := _trouble(client, model)) is not None:
                    if isinstance(error, FatalError) and error.code not in _NOT_YET:
                        raise error
                    if rise.failed:
                        raise self._failed(process.poll(), lost=rise.lost)
                    if ended.wait(_LOOK_S):
                        self.kill()
                        return
        self._was_up = True

    def answers(self) -> bool:
        """Ask the server whether it lives."""
        return is_live(self.url)

    def end_frozen(self, limit_s: float) -> list[str]:
        """End models' processes that were stopped for `limit_s`; the supervisor has them made anew."""
        ended = self._frozen_stubs.end(stubs_of(self.pid), limit_s)
        return [model for model in self.models if any(self._runs(model, command) for command in ended)]

    def fault(self) -> HistgenError:
        """Say why it ended."""
        return self._failed(self._process.poll() if self._process else None)

    def _failed(self, exit_code: int | None, *, lost: bool = False) -> HistgenError:
        """Say what a model could not be loaded for, if it was one of ours, or where to read it."""
        if exit_code is None and not lost:
            self._start_s = min(2 * self._start_s, _MOST_START_S)
        told = written_since(self.log_path, self._log_start)
        hint = f"The last lines of {self.log_path} say why."
        refused = lost or bool(exit_code and exit_code > 0)
        if refused and not self._was_up and (said := decode_error(told.replace('\\"', '"'))):
            return said
        if lost or is_retryable(exit_code, told, was_up=self._was_up):
            how = "lost the process of a model" if lost else describe_exit(exit_code)
            return TransientError("triton-ended", f"tritonserver {how}.", hint=hint)
        return FatalError("triton-failed", "tritonserver did not start.", hint=hint)


def clear_left_over() -> None:
    """Remove what killed stacks left on this machine: models' processes, shared memory, sockets."""
    end_left_over()
    for kind in (KIND, TENSORS):
        shared_memory.clear_orphans(kind)
    clear_sockets()


def _trouble(client: TritonServer, model: str) -> HistgenError | None:
    try:
        client.canary(model)
    except HistgenError as error:
        return error
    return None


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a server that was told to stop.

    It unloads its models then, and waits in vain for one whose process was killed. Without any such process
    there is nothing left that it could finish.
    """
    end_at = time.monotonic() + _DRAIN_S
    while process.poll() is None and stubs_of(process.pid) and time.monotonic() < end_at:
        time.sleep(_LOOK_S)
    end(process, grace_s=_LAST_S)

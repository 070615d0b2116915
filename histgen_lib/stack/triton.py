"""A real Triton Inference Server on this machine: a child process, reached by a private socket.

Anyone who can connect to a Triton can make it run any Python. A loopback port is open to every account of
the machine, and so is a secret in a command line; hence a socket in a folder that no other account can enter
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.inference import TritonServer, is_live, shared_memory
from histgen_lib.inference.shared_memory import TENSORS
from histgen_lib.inference.wire import check_numpy, decode_error
from histgen_lib.secret import OWNER_ONLY
from histgen_lib.stack.children import (
    describe_exit,
    dying_with_parent,
    end,
    free_port,
    is_retryable,
    written_since,
)
from histgen_lib.stack.monitoring import clear_targets, list_target
from histgen_lib.stack.processes import Process
from histgen_lib.stack.stubs import KIND, PROGRAM, FrozenStubs, end_left_over, stubs_of
from histgen_lib.stack.unshared import command_unshared

_START_S, _MOST_START_S = 90.0, 960.0
"""How long a start may take; doubled each time that was too short for this machine."""
_DRAIN_S = 120
"""How long a stopping server may take to finish its requests."""
_SITE = Path(__file__).resolve().parents[2]
"""Where histgen_lib lies; the models import it from there."""
_LOOK_S = 0.05
_GPU_LOOK_MS = 5000
"""How often it looks at its GPUs for its metrics; all others are counted as they happen."""
_NOT_YET = frozenset({"inference-model-unknown", "inference-not-triton"})
"""Errors of a server that is still starting."""
_LAST_S = 3.0
"""A server whose stubs have all ended exits within this time, or never."""
_SOCKET_KIND = "door"
_LONGEST_BYTES = 107
"""The longest path of a socket (the kernel's `sun_path`)."""
_SOCKET = "grpc:1"
NAME = "triton"
"""In lists of Prometheus's targets."""


class _Startup:
    """A server that has to be up by `end_at`, and its models' processes. `clock`: monotonic seconds."""

    def __init__(
        self, process: subprocess.Popen[bytes], end_at: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._process, self._end_at, self._clock = process, end_at, clock
        self._stubs: set[int] = set()
        self._lost_at: float | None = None

    @property
    def lost(self) -> bool:
        """Whether a model's process ended while the server runs on; the server would not restart it."""
        stubs = set(stubs_of(self._process.pid))
        if self._lost_at is None and self._stubs - stubs:
            self._lost_at = self._clock()
        self._stubs |= stubs
        lasts = self._lost_at is not None and self._clock() - self._lost_at > _LAST_S
        return lasts and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it will not come up, or not in time."""
        return self._process.poll() is not None or self.lost or self._clock() > self._end_at


class TritonProcess(Process):
    """One tritonserver of our own, for this account only; its address survives `kill` and `start`.

    `repository` holds the models (`histgen_lib.export.export_local` writes one); all of them are loaded.
    `home` is the environment that `deploy/setup.sh triton` makes. It listens only at a `PrivateSocket`, and
    its shared memory is for its owner only. It dies with the thread that called `start`, and its models'
    processes die with it. With `run_dir` its metrics, which name no slide, are served on a port of 127.0.0.1,
    another one after each start, and listed there for Prometheus.
    """

    def __init__(self, repository: Path, home: Path, *, log: Path, run_dir: Path | None = None) -> None:
        self._repository, self._home, self._log = repository.absolute(), home.absolute(), log
        self._run_dir = run_dir
        self._place = PrivateSocket()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_s, self._was_up, self._log_start = _START_S, False, 0
        self._regions = f"{shared_memory.new_name(KIND)}-"
        self._frozen_stubs = FrozenStubs()

    @property
    def url(self) -> str:
        """What `open_inference` takes."""
        return f"triton://{self._place.socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """Where it writes its log."""
        return self._log

    @property
    def models(self) -> list[str]:
        """The names of the repository's models."""
        return sorted(path.parent.name for path in self._repository.glob("*/config.pbtxt"))

    def start(self, ended: threading.Event | None = None) -> None:
        """Start, and return when every model has answered, or when `ended` is set.

        Raises FatalError: "triton-missing" if it is not installed, "triton-numpy" if the numpy of its
        environment makes every answer empty, "triton-door" without a safe place for its socket,
        "triton-failed" if it refuses to run, and what the models raise; TransientError("triton-ended") if it
        or a model's process was killed, if it is slow, or if what it lacks may be there later.
        """
        if self.pid is not None:
            return
        server = self._server()
        self._clear()
        self._place.make()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            port = free_port() if self._run_dir else 0
            command = [str(server / "bin" / "tritonserver"), *self._options(server, port)]
            self._process = subprocess.Popen(
                dying_with_parent(command_unshared(command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(server),
                cwd=self.log_path.parent,  # the stubs import from here first: nothing may shadow modules
                # Ctrl-C in a terminal reaches every process of the group, but reports are to be finished.
                start_new_session=True,
                umask=OWNER_ONLY,  # of the socket, and of what Python models share with the server: pixels
            )
        try:
            self._await(self._process, ended or threading.Event())
            self._list_metrics(port)
        except BaseException:
            self.kill()
            raise

    def _list_metrics(self, port: int) -> None:
        if self._run_dir and (pid := self.pid):
            list_target(self._run_dir, NAME, pid, f"127.0.0.1:{port}", job=f"histgen-{NAME}")

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
        """Return the processes that run a model's Python."""
        return [pid for pid, command in stubs_of(self.pid).items() if self._runs(model, command)]

    def _runs(self, model: str, command: Sequence[str]) -> bool:
        """Return whether a stub's command says that it runs a model."""
        return any(f"{self._repository}/{model}/" in part for part in command)

    def _clear(self) -> None:
        """Remove what a killed server leaves behind."""
        if self._run_dir:
            clear_targets(self._run_dir)
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
            "triton-missing", "tritonserver is not installed.", hint="Run: deploy/setup.sh triton"
        )

    def _options(self, server: Path, metrics_port: int) -> list[str]:
        options = {
            "model-repository": self._repository,
            "model-control-mode": "explicit",  # the supervisor unloads and loads
            "load-model": "*",
            "backend-directory": server / "backends",
            "pinned-memory-pool-byte-size": 0,  # for GPUs
            "exit-timeout-secs": _DRAIN_S,
            "log-format": "ISO8601",
            **self._listening(),
            **{f"allow-{other}": "false" for other in ("http", "sagemaker", "vertex-ai", "cpu-metrics")},
            **_metrics_options(metrics_port),
        }
        backend = {
            "shm-region-prefix-name": self._regions,
            "shm-default-byte-size": 16 << 20,
            "shm-growth-byte-size": 16 << 20,
        }
        return [
            "--disable-auto-complete-config",  # ours are complete, and completing starts every stub twice
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in backend.items()),
        ]

    def _listening(self) -> dict[str, object]:
        """Split the socket's path as Triton joins it: before the last colon, and a number after it."""
        address, _, number = str(self._place.socket).rpartition(":")
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
        startup = _Startup(process, time.monotonic() + self._start_s)
        with TritonServer(self.url, shared_memory="off") as client:
            for model in self.models:
                while (error := _trouble(client, model)) is not None:
                    if isinstance(error, FatalError) and error.code not in _NOT_YET:
                        raise error
                    if startup.failed:
                        raise self._failed(process.poll(), lost=startup.lost)
                    if ended.wait(_LOOK_S):
                        self.kill()
                        return
        self._was_up = True

    def answers(self) -> bool:
        """Return whether the server is live."""
        return is_live(self.url)

    def end_frozen(self, limit_s: float) -> list[str]:
        """End models' processes that were stopped for `limit_s`; the supervisor reloads their models."""
        ended = self._frozen_stubs.end(stubs_of(self.pid), limit_s)
        return [model for model in self.models if any(self._runs(model, command) for command in ended)]

    def fault(self) -> HistgenError:
        """Return why it ended."""
        return self._failed(self._process.poll() if self._process else None)

    def _failed(self, exit_code: int | None, *, lost: bool = False) -> HistgenError:
        """Return the error with which a model of ours failed to load, else one that names the log."""
        if exit_code is None and not lost:
            self._start_s = min(2 * self._start_s, _MOST_START_S)
        log = written_since(self.log_path, self._log_start)
        hint = f"The last lines of {self.log_path} say why."
        refused = lost or bool(exit_code)  # by a signal, too: it may crash while it unloads the others
        if refused and not self._was_up and (error := decode_error(log.replace('\\"', '"'))):
            return error
        if lost or is_retryable(exit_code, log, was_up=self._was_up):
            how = "lost the process of a model" if lost else describe_exit(exit_code)
            return TransientError("triton-ended", f"tritonserver {how}.", hint=hint)
        return FatalError("triton-failed", "tritonserver did not start.", hint=hint)


def _metrics_options(port: int) -> dict[str, object]:
    """Have metrics served on loopback; not at all for port 0."""
    if not port:
        return {"allow-metrics": "false"}
    return {
        "allow-metrics": "true",
        "metrics-address": "127.0.0.1",
        "metrics-port": port,
        "metrics-interval-ms": _GPU_LOOK_MS,
    }


def clear_left_over() -> None:
    """Remove what killed stacks left on this machine: stubs, shared memory, sockets."""
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
    """Wait for a stopping server to end.

    It unloads its models, and would wait forever for one whose process was killed. Without any stub there is
    nothing left for it to finish.
    """
    end_at = time.monotonic() + _DRAIN_S
    while process.poll() is None and stubs_of(process.pid) and time.monotonic() < end_at:
        time.sleep(_LOOK_S)
    end(process, grace_s=_LAST_S)


class PrivateSocket:
    """A place for a socket in a folder of its own. It has a name at once; `make` creates the folder.

    The folder lives as long as this object, so that nobody can take its name while the server restarts.
    Raises FatalError("triton-door") if no folder for temporary files is safe from other accounts.
    """

    def __init__(self) -> None:
        name = f"{shared_memory.new_name(_SOCKET_KIND)}-{token_hex(4)}"
        self.folder = _base(len(f"/{name}/{_SOCKET}")) / name
        self.socket = self.folder / _SOCKET
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)  # at the latest when we exit

    def make(self) -> None:
        """Create the folder, or check that the existing one is ours. Raises FatalError("triton-door")."""
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            state = self.folder.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
                raise _unsafe(f"{self.folder} belongs to somebody else") from None
        except OSError as error:
            raise _unsafe(f"{self.folder} cannot be made ({error.strerror})") from error


def clear_sockets() -> None:
    """Remove the folders of processes that have ended."""
    for base in _bases():
        for folder in base.glob(f"histgen-{_SOCKET_KIND}-*"):
            if shared_memory.is_orphan(folder.name):
                shutil.rmtree(folder, ignore_errors=True)  # another account's cannot be removed, and stays


def _bases() -> Iterator[Path]:
    """Yield folders for temporary files, but not the login session's, which is removed at logout."""
    yield Path(tempfile.gettempdir()).resolve()
    yield Path("/tmp")


def _base(rest_bytes: int) -> Path:
    for base in _bases():
        if len(os.fsencode(base)) + rest_bytes <= _LONGEST_BYTES and _safe(base):
            return base
    raise _unsafe("others may rename files in it, or its path is too long")


def _safe(base: Path) -> bool:
    """Return whether nobody else can replace a folder of ours with one of theirs."""
    return base.is_dir() and all(_holds(folder.stat()) for folder in (base, *base.parents))


def _holds(state: os.stat_result) -> bool:
    kept = not state.st_mode & 0o022 or bool(state.st_mode & stat.S_ISVTX)
    return kept and state.st_uid in {0, os.geteuid()}


def _unsafe(why: str) -> FatalError:
    return FatalError(
        "triton-door",
        f"No folder for tritonserver's socket is safe from other accounts: {why}.",
        hint="Set TMPDIR to a folder with a short path that only this account may write to.",
    )

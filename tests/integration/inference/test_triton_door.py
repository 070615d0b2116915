"""Anyone who reaches Triton can have it run any Python: only its own account or its secret gives access."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from noop_repository import noop_repository
from service_access import listening
from waiting import until

from histgen_lib.errors import FatalError
from histgen_lib.inference import Supervisor, TritonServer, open_inference
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference.shared_memory import Region
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.children import free_port
from histgen_lib.stack.local import LocalStack
from histgen_lib.stack.settings import StackSettings
from histgen_lib.stack.triton import TritonProcess

SHM = Path("/dev/shm")
NOBODY = 65534
PROTOCOLS = (
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)

STRANGER = f"""
import json, os, sys
from pathlib import Path
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
socket, mark, *segments = sys.argv[1:]
client = InferenceServerClient(f"unix:{{socket}}")
evil = f"open({{mark!r}}, 'w')\\nclass TritonPythonModel: ...".encode()
config = json.dumps({{"backend": "python", "max_batch_size": 0}})
tries = {{
    "load": lambda: client.load_model("evil", config=config, files={{"file:1/model.py": evil}}),
    "reload": lambda: client.load_model("histgen"),
    "infer": lambda: client.infer("histgen", []),
    "list": lambda: os.listdir(Path(socket).parent),
}}
tries |= {{path: lambda path=path: os.open(path, os.O_RDONLY) for path in segments}}
results = {{}}
for name, attempt in tries.items():
    try:
        attempt()
        results[name] = "done"
    except (OSError, InferenceServerException) as error:
        results[name] = str(getattr(error, "errno", "") or error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def own(
    start_triton: Callable[[Path], TritonProcess], model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> TritonProcess:
    return start_triton(noop_repository(tmp_path_factory.mktemp("repository"), model_dir))


@pytest.fixture(scope="module")
def bag(model_dir: Path) -> dict[str, np.ndarray]:
    width = open_model_folder(model_dir).histgen.input_dim
    return {"features": np.ones((3000, width), np.float16), "xy": np.zeros((3000, 2), np.int32)}


def segments_of(server: TritonProcess) -> list[Path]:
    return sorted(SHM.glob(f"{server._regions}*"))


def test_what_the_server_and_its_clients_share_is_for_their_account_only(
    own: TritonProcess, bag: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modes are looked at while a bag is on its way, when its client's memory still has a name."""
    seen: dict[str, int] = {}
    register = Connection.register

    def look(self: Connection, name: str, key: str, size_bytes: int) -> None:
        register(self, name, key, size_bytes)
        seen[name] = stat.S_IMODE((SHM / name).stat().st_mode)
        seen.update({path.name: stat.S_IMODE(path.stat().st_mode) for path in segments_of(own)})

    monkeypatch.setattr(Connection, "register", look)
    before = os.umask(0)
    try:
        with TritonServer(own.url) as client:
            client.infer("histgen", bag)
    finally:
        os.umask(before)
    assert len(seen) > 2
    assert set(seen.values()) == {0o600}


def test_the_server_listens_at_a_socket_in_a_private_folder_and_nowhere_else(own: TritonProcess) -> None:
    socket = Path(own.url.removeprefix("triton://"))
    assert own.pid is not None
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert socket.parent.stat().st_uid == os.geteuid()
    assert listening(own.pid) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; the modes are tested above")
def test_another_account_can_neither_load_nor_use_models_nor_open_shared_memory(
    own: TritonProcess, tmp_path: Path
) -> None:
    segments = segments_of(own)
    assert segments
    mark = tmp_path / "ran"
    command = [sys.executable, "-c", STRANGER, own.url.removeprefix("triton://"), str(mark)]
    done = subprocess.run([*command, *map(str, segments)], stdout=subprocess.PIPE, check=True)
    results = json.loads(done.stdout)
    assert all("Permission denied" in results[name] for name in ("load", "reload", "infer")), results
    assert {results[name] for name in ("list", *map(str, segments))} == {"13"}
    assert not mark.exists()


def test_a_server_that_is_killed_leaves_nothing_behind_once_it_is_started_again(own: TritonProcess) -> None:
    lost = SHM / f"{own._regions}lost"
    lost.touch()  # of its own segments some go with the models' processes, sooner or later
    old = {path.stat().st_ino for path in segments_of(own)}
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    until(lambda: own.pid is None, 60, "the server's end")
    assert lost.exists()
    own.start()
    assert not old & {path.stat().st_ino for path in segments_of(own)}


def test_what_a_killed_stack_left_is_removed_by_the_next_whatever_runs_its_models(
    own: TritonProcess, model_dir: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from histgen_lib.stack.triton import TritonProcess\n"
        "server = TritonProcess(*map(Path, sys.argv[1:3]), log=Path(sys.argv[3]) / 'log')\n"
        "server.start(); print(server._regions, server.url, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(own._repository), str(own._home), str(tmp_path)]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert killed.stdout
    regions, url = killed.stdout.readline().decode().split()
    (SHM / f"{regions}lost").touch()
    killed.kill()
    killed.communicate()
    door = Path(url.removeprefix("triton://")).parent
    assert list(SHM.glob(f"{regions}*"))
    assert door.exists()
    mine = segments_of(own)
    stack = LocalStack(StackSettings(tmp_path / "home", model_dir, inference="neither Triton nor ONNX"))
    with pytest.raises(FatalError), stack:
        pass
    assert not list(SHM.glob(f"{regions}*"))
    assert not door.exists()
    assert segments_of(own) == mine  # of a server that lives


class TcpTriton(TritonProcess):
    """A tritonserver as a cluster has it: at a port, each protocol restricted to who knows a secret."""

    port, secret = 0, "0123abcd"

    @property
    def url(self) -> str:
        return f"triton://127.0.0.1:{self.port}"

    def _listening(self) -> dict[str, object]:
        return {
            "grpc-address": "127.0.0.1",
            "grpc-port": self.port,
            "grpc-restricted-protocol": f"{','.join(PROTOCOLS)}:histgen-secret={self.secret}",
        }

    def _await(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        with TritonServer(self.url, shared_memory="off", secret=self.secret) as client:
            until(lambda: all(client.ready(model) for model in self.models), 90, "the restricted server")


@pytest.fixture(scope="module")
def restricted(own: TritonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpTriton]:
    server = TcpTriton(own._repository, own._home, log=tmp_path_factory.mktemp("restricted") / "log")
    server.port = free_port()
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("secret", [None, "0123abce"])
def test_a_restricted_server_refuses_everything_without_its_secret(
    restricted: TcpTriton, bag: dict[str, np.ndarray], secret: str | None
) -> None:
    with TritonServer(restricted.url, secret=secret) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.infer("histgen", bag),
            lambda: client.warm("histgen"),
            lambda: client.metadata("histgen"),
        ]
        for call in calls:
            with pytest.raises(FatalError) as caught:
                call()
            assert caught.value.code == "inference-secret"
            assert "HISTGEN_INFERENCE_SECRET" in caught.value.hint
        assert not client.ready("histgen")
    assert set(answers(Connection(restricted.url, secret)).values()) == {"inference-secret"}


def test_a_restricted_server_does_everything_with_its_secret(
    restricted: TcpTriton, bag: dict[str, np.ndarray], model_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{restricted.secret}\n")
    path.chmod(0o600)
    with TritonServer(restricted.url, secret=restricted.secret) as client:
        assert client.infer("histgen", bag)["tokens"].size
        assert client.ready("tile_encoder")
    assert set(answers(Connection(restricted.url, restricted.secret)).values()) == {""}
    supervisor = Supervisor(restricted.url, restricted.models, secret=restricted.secret)
    supervisor.look()
    assert supervisor.reloads == 0
    assert open_inference(restricted.url, model_dir, secret_path=path).ready("histgen")


def test_a_supervisor_beside_a_server_mends_its_models_and_shows_which_are_up(
    restricted: TcpTriton, tmp_path: Path
) -> None:
    """As a sidecar does in a pod. It shows 0 for a second at least: until it looks again."""
    path, port = tmp_path / "secret", free_port()
    path.write_text(restricted.secret)
    path.chmod(0o600)
    options = ["--secret", str(path), "--metrics-port", str(port), "--calm", "1"]
    command = [sys.executable, "-m", "histgen_lib.cli", "supervise-models", restricted.url, *options]
    supervising = subprocess.Popen(command, stderr=(tmp_path / "log").open("wb"))

    def up() -> dict[str, float]:
        try:
            page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        except httpx.TransportError:
            return {}
        found = re.findall(r'^histgen_inference_canary_up{model="(\w+)"} (\S+)$', page, re.MULTILINE)
        return {model: float(value) for model, value in found}

    try:
        until(lambda: up() == dict.fromkeys(restricted.models, 1.0), 60, "both models are up")
        (stub,) = restricted.stub_pids("histgen")
        os.kill(stub, signal.SIGKILL)
        until(lambda: up()["histgen"] == 0, 60, "one is down")
        until(lambda: up()["histgen"] == 1, 60, "it is up again")
        assert stub not in restricted.stub_pids("histgen")
    finally:
        supervising.terminate()
    assert supervising.wait(60) == 0


def answers(connection: Connection) -> dict[str, str]:
    """Ask all that can be asked, in an order that leaves the server as it was; return the errors' codes."""
    region = Region("unittest", 4096)
    calls: dict[str, Callable[[], object]] = {
        "config": lambda: connection.config("histgen"),
        "models": connection.models,
        "executions": lambda: connection.executions("histgen"),
        "register": lambda: connection.register(region.name, region.key, 4096),
        "regions": connection.regions,
        "unregister": lambda: connection.unregister(region.name),
        "unload": lambda: connection.unload("histgen"),
        "load": lambda: connection.load("histgen"),
    }
    codes = {name: code_of(call) for name, call in calls.items()}
    region.close()
    connection.close()
    return codes


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except CallFailedError as failed:
        return failed.error.code
    return ""


def test_the_docs_restrict_what_is_tested_here() -> None:
    text = (Path(__file__).parents[3] / "docs" / "stream.md").read_text(encoding="utf-8")
    assert f"--grpc-restricted-protocol={','.join(PROTOCOLS)}:histgen-secret=" in text

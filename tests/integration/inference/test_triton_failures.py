"""What happens when the server, a model's process, or a client is killed, is late, or is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from noop_repository import TOKENS, noop_repository
from waiting import until

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.export import export_local
from histgen_lib.inference import Supervisor, TritonServer
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference.shared_memory import clear_server
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess

SHM = Path("/dev/shm")
BUSY_S = 0.8

Start = Callable[[Path], TritonProcess]
Bag = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def own(start_triton: Start, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TritonProcess:
    """Run a server for these tests to hurt; each leaves it well."""
    return start_triton(export_local(model_dir, tmp_path_factory.mktemp("repository")))


@pytest.fixture(scope="module")
def slow(start_triton: Start, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TritonProcess:
    """Run one whose models take their time, and let only two requests wait."""
    place = tmp_path_factory.mktemp("slow")
    return start_triton(noop_repository(place, model_dir, seconds=BUSY_S, queue=2))


@pytest.fixture(scope="module")
def bag(model_dir: Path) -> Bag:
    """Make a bag that is large enough for shared memory."""
    width = open_model_folder(model_dir).histgen.input_dim
    cells = np.arange(3000)
    xy = np.stack([cells % 50, cells // 50], axis=1).astype(np.int32) * 512
    return {"features": np.random.default_rng(0).normal(size=(3000, width)).astype(np.float16), "xy": xy}


@pytest.fixture
def client(own: TritonProcess) -> Iterator[TritonServer]:
    with TritonServer(own.url) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def kill_stub(server: TritonProcess, model: str) -> None:
    (pid,) = server.stub_pids(model)
    os.kill(pid, signal.SIGKILL)


def error_of(client: TritonServer, bag: Bag) -> str:
    with pytest.raises(HistgenError) as caught:
        client.infer("histgen", bag)
    return caught.value.code


def test_a_killed_model_is_not_ready_and_its_callers_may_retry(
    own: TritonProcess, client: TritonServer, bag: Bag, caplog: pytest.LogCaptureFixture
) -> None:
    before = client.infer("histgen", bag)
    kill_stub(own, "histgen")
    with pytest.raises(TransientError) as caught:
        client.infer("histgen", bag)
    assert caught.value.code == "inference-unavailable"
    until(lambda: not client.ready("histgen"), 60, "a dead model to be found out")
    assert client.ready("tile_encoder")
    assert Connection(own.url).models()["histgen"][0] == "READY"  # what Triton itself believes

    supervisor = Supervisor(own.url, own.models, interval_s=0.2)
    with caplog.at_level(logging.WARNING):
        supervisor.start()
        until(lambda: client.ready("histgen"), 60, "the model to be reloaded")
        supervisor.stop()
    assert [record.getMessage() for record in caplog.records if "reloaded" in record.getMessage()] == [
        "The model histgen is reloaded: inference-unavailable."
    ]
    after = client.infer("histgen", bag)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_a_healthy_server_is_left_alone(own: TritonProcess) -> None:
    pids = [own.stub_pids(model) for model in own.models]
    supervisor = Supervisor(own.url, own.models)
    for _ in range(3):
        supervisor.look()
    assert supervisor.reloads == 0
    assert [own.stub_pids(model) for model in own.models] == pids


def test_a_hung_model_is_distinguished_from_a_busy_one(
    own: TritonProcess, client: TritonServer, bag: Bag
) -> None:
    hung: list[str] = []

    def on_hung(model: str) -> None:
        hung.append(model)
        kill_stub(own, model)

    supervisor = Supervisor(own.url, ["histgen"], answer_s=0.3, hung_s=0.5, on_hung=on_hung)
    os.kill(own.stub_pids("histgen")[0], signal.SIGSTOP)
    until(lambda: supervisor.look() or hung, 60, "the hung model to be found out")
    until(lambda: supervisor.look() or client.ready("histgen"), 60, "the model to be reloaded")
    assert hung == ["histgen"]
    assert client.infer("histgen", bag)["tokens"].size


def test_a_request_that_kills_the_model_again_and_again_is_blamed(
    own: TritonProcess, model_dir: Path, bag: Bag
) -> None:
    repository = noop_repository(own._repository, model_dir)
    deadly = repository / "histgen" / "1" / "model.py"
    deadly.write_text(
        deadly.read_text().replace(
            "tiles = xy.shape[1]", "tiles = xy.shape[1] % 3000 or __import__('os')._exit(1)"
        )
    )
    connection = Connection(own.url)
    connection.load("histgen")
    harmless = {name: value[:2999] for name, value in bag.items()}
    supervisor = Supervisor(own.url, ["histgen"], interval_s=0.2)
    supervisor.start()
    with TritonServer(own.url, patience=2) as client:
        assert error_of(client, bag) == "inference-unavailable"
        until(lambda: client.ready("histgen"), 60, "the model to be reloaded")
        assert client.infer("histgen", harmless)["tokens"].size
        assert error_of(client, bag) == "inference-crashes"
        until(lambda: client.ready("histgen"), 60, "the model to be reloaded")
        assert client.infer("histgen", harmless)["tokens"].size
    supervisor.stop()
    export_local(model_dir, repository)
    connection.load("histgen")


def test_one_client_outlives_the_server_and_finds_the_next_one(
    own: TritonProcess, client: TritonServer, bag: Bag
) -> None:
    before = client.infer("histgen", bag)
    own.kill()
    for _ in range(2):
        with pytest.raises(TransientError) as caught:
            client.infer("histgen", bag)
        assert caught.value.code == "inference-unavailable"
    assert not client.ready("tile_encoder")
    own.start()
    after = client.infer("histgen", bag)  # found at once, though the channel waits between its tries
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    assert Connection(own.url).regions()  # by shared memory again


def test_a_model_that_is_away_for_a_moment_is_not_unknown(
    own: TritonProcess, client: TritonServer, bag: Bag
) -> None:
    connection = Connection(own.url)
    connection.unload("histgen")
    with pytest.raises(TransientError) as caught:
        client.infer("histgen", bag)
    assert caught.value.code == "inference-unavailable"
    connection.load("histgen")
    assert client.infer("histgen", bag)["tokens"].size


def test_another_model_on_the_server_is_noticed(
    own: TritonProcess, model_dir: Path, own_model_dir: Path, tmp_path: Path, bag: Bag
) -> None:
    """A client that has asked before does not take answers of a model that was put there since."""
    digest = open_model_folder(model_dir).digest
    with TritonServer(own.url, version=digest) as sure, TritonServer(own.url) as easy:
        assert (
            sure.infer("histgen", bag)["tokens"].tobytes() == easy.infer("histgen", bag)["tokens"].tobytes()
        )
        repository = own._repository
        config = own_model_dir / "config.json"
        config.write_text(config.read_text().replace('"name":"tiny"', '"name":"another"'))
        export_local(own_model_dir, repository)
        Connection(own.url).load("histgen")
        try:
            with pytest.raises(FatalError) as caught:
                sure.infer("histgen", bag)
            assert caught.value.code == "inference-other-model"
            assert easy.infer("histgen", bag)["tokens"].size
            assert easy.metadata("histgen").version == open_model_folder(own_model_dir).digest != digest
        finally:
            export_local(model_dir, repository)
            Connection(own.url).load("histgen")


def test_a_late_answer_is_transient_and_its_memory_is_not_reused_meanwhile(
    slow: TritonProcess, bag: Bag
) -> None:
    with TritonServer(slow.url, deadline_s=0.3) as hasty:
        with pytest.raises(TransientError) as caught:
            hasty.infer("histgen", bag)
        assert caught.value.code == "inference-deadline"
        held = set(Connection(slow.url).regions())
        with pytest.raises(TransientError):
            hasty.infer("histgen", bag)
        assert held < set(Connection(slow.url).regions())  # the second request had memory of its own
    until(lambda: _cleared(slow), 60, "the server to let go of what nobody waits for")


def _cleared(server: TritonProcess) -> bool:
    """Ask as a client does that wants its memory back; true once the server has none of it."""
    connection = Connection(server.url)
    for name in connection.regions():
        try:
            connection.unregister(name)
        except CallFailedError:
            return False
    return True


def test_a_full_queue_is_transient(slow: TritonProcess, bag: Bag, pool: ThreadPoolExecutor) -> None:
    with TritonServer(slow.url) as client:
        calls = [pool.submit(client.infer, "histgen", bag) for _ in range(8)]
        outcomes = [call.exception() for call in calls]
        assert [error.code for error in outcomes if isinstance(error, TransientError)]
        assert {getattr(error, "code", "") for error in outcomes if error} == {"inference-unavailable"}
        assert [call.result()["tokens"].tolist() for call in calls if not call.exception()] == [
            list(TOKENS)
        ] * outcomes.count(None)


def test_a_model_that_is_busy_is_ready(slow: TritonProcess, bag: Bag, pool: ThreadPoolExecutor) -> None:
    with TritonServer(slow.url) as client:
        call = pool.submit(client.infer, "histgen", bag)
        assert client.ready("histgen")
        call.result()


def test_models_at_work_die_with_a_killed_server(
    slow: TritonProcess, bag: Bag, pool: ThreadPoolExecutor
) -> None:
    """Left alone they would wait for their server forever."""
    with TritonServer(slow.url) as client:
        call = pool.submit(client.infer, "histgen", bag)
        until(lambda: not _cleared(slow), 60, "the request to be under way")
        stubs = [pid for model in slow.models for pid in slow.stub_pids(model)]
        slow.kill()
        assert isinstance(call.exception(), TransientError)
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in stubs), 60, "them to end")
    slow.start()


def test_a_stopping_server_finishes_what_it_has_begun(
    slow: TritonProcess, bag: Bag, pool: ThreadPoolExecutor
) -> None:
    with TritonServer(slow.url) as client:
        begun: Future[Bag] = pool.submit(client.infer, "histgen", bag)
        until(lambda: not _cleared(slow), 60, "the request to be under way")
        stopping = pool.submit(slow.stop)
        assert begun.result()["tokens"].tolist() == list(TOKENS)
        stopping.result()
        with pytest.raises(TransientError):
            client.infer("histgen", bag)
    slow.start()


def test_a_killed_client_leaves_nothing_behind(own: TritonProcess, model_dir: Path) -> None:
    """Its files are gone at once, and the server unmaps its memory when the supervisor looks."""
    width = open_model_folder(model_dir).histgen.input_dim
    code = (
        "import sys, time, numpy as np; from histgen_lib.inference import TritonServer\n"
        "server = TritonServer(sys.argv[1])\n"
        f"bag = {{'features': np.zeros((9000, {width}), np.float16), 'xy': np.zeros((9000, 2), np.int32)}}\n"
        "server.infer('histgen', bag | {'max_tokens': np.array([1])})\n"
        "print(flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, own.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout
    child.stdout.readline()
    connection = Connection(own.url)
    mine = f"-{child.pid}-"
    assert [name for name in connection.regions() if mine in name]
    clear_server(connection)
    assert [name for name in connection.regions() if mine in name]  # it lives: its memory is left alone
    child.kill()
    child.communicate()
    assert not [path for path in SHM.iterdir() if mine in path.name]
    Supervisor(own.url, own.models).look()
    assert not [name for name in connection.regions() if mine in name]


def test_a_server_that_cannot_map_our_memory_is_used_over_the_network(
    own: TritonProcess, bag: Bag, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Connection.register

    def register(self: Connection, name: str, key: str, size_bytes: int) -> None:
        real(self, name, f"{key}-of-another-machine", size_bytes)

    monkeypatch.setattr(Connection, "register", register)
    with TritonServer(own.url) as far, caplog.at_level(logging.WARNING):
        assert far.infer("histgen", bag)["tokens"].size
        assert far.infer("histgen", bag)["tokens"].size
    assert [record.getMessage() for record in caplog.records] == [
        "Tensors go to the model server over the network, not through shared memory: "
        "the server cannot map it."
    ]
    assert not [path for path in SHM.iterdir() if path.name.startswith("histgen-tensors-")]


def test_the_server_and_its_models_die_with_the_process_that_started_it(
    own: TritonProcess, triton_home: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from histgen_lib.stack.triton import TritonProcess\n"
        "server = TritonProcess(*map(Path, sys.argv[1:3]), log=Path(sys.argv[3]) / 'log')\n"
        "server.start()\n"
        "stubs = [server.stub_pids(model)[0] for model in server.models]\n"
        "print(server.pid, *stubs, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(own._repository), str(triton_home), str(tmp_path)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.communicate()
    # A model that was handing something over waits for its server: its clock ends it, 20 s later.
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 60, "all of it to end")


def test_numpy_2_is_detected_although_the_server_says_nothing(
    triton_home: Path, model_dir: Path, tmp_path: Path
) -> None:
    """The stubs import from the folder they are started in first: there lies the numpy of these tests."""
    assert np.__version__ >= "2"
    installed = Path(np.__file__).parent
    for name in ("numpy", "numpy.libs"):
        (tmp_path / name).symlink_to(installed.parent / name)
    for repository, code in (
        (noop_repository(tmp_path / "noop", model_dir), "inference-empty-output"),
        (export_local(model_dir, tmp_path / "real"), "triton-numpy"),
    ):
        server = TritonProcess(repository, triton_home, log=tmp_path / "triton.log")
        with pytest.raises(FatalError) as caught:
            server.start()
        assert caught.value.code == code
        assert server.pid is None


def test_requests_of_many_threads_and_clients_do_not_share_memory(own: TritonProcess, bag: Bag) -> None:
    """The tiler streams from several threads; a region serves one request at a time."""
    counts = [600, 1200, 3000]
    with TritonServer(own.url) as client:
        alone = {
            count: client.infer("histgen", {name: value[:count] for name, value in bag.items()})["score"]
            for count in counts
        }
        wrong: list[int] = []

        def ask(count: int) -> None:
            part = {name: value[:count] for name, value in bag.items()}
            for _ in range(3):
                if client.infer("histgen", part)["score"] != alone[count]:
                    wrong.append(count)

        threads = [threading.Thread(target=ask, args=(count,)) for count in counts * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(Connection(own.url).regions()) <= len(threads)


def test_a_server_stops_although_one_of_its_models_was_killed(
    own: TritonProcess, pool: ThreadPoolExecutor
) -> None:
    """Triton waits for such a model until its time to stop is over, which is minutes."""
    kill_stub(own, "histgen")
    pool.submit(own.stop).result(timeout=30)
    assert own.pid is None
    assert not [path for path in SHM.iterdir() if path.name.startswith(own._regions)]

"""A service ends with an exit code that its supervisor understands, after what is in hand is done."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.runtime.board import Board, WebBoard
from histgen_lib.runtime.loops import Loop, LoopContext, StoreProbe
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.service import UNFORESEEN, WebService, exit_code
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.runtime.web.address import Address
from histgen_lib.runtime.web.server import health_app
from histgen_lib.storage import ObjectInfo, StorageSettings, open_store

DENIED = FatalError("storage-denied", "The store refuses.")
AWAY = TransientError("storage-unavailable", "The store is away.")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (None, 0),
        (Stopped(), 0),
        (DENIED, DENIED.exit_code),
        (AWAY, AWAY.exit_code),
        (InvalidInputError("a-b", "m"), InvalidInputError("a-b", "m").exit_code),
        (OSError(errno.ENOSPC, "No space left on device"), TransientError.exit_code),
        (PermissionError(errno.EACCES, "Permission denied"), UNFORESEEN),
        (RuntimeError("boom"), UNFORESEEN),
    ],
)
def test_whatever_ends_a_service_has_its_exit_code(raised: Exception | None, code: int):
    def run() -> None:
        if raised:
            raise raised

    assert exit_code(run) == code


class Store:
    """A store whose look-ups fail with `error`, if there is one."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.looks = 0

    def head(self, key: str) -> ObjectInfo | None:
        self.looks += 1
        if self.error:
            raise self.error
        return None


def test_the_probe_shows_whether_the_store_answers():
    now = [0.0]
    board, store = Board("b", missing={"store": "starting"}), Store()
    probe = StoreProbe(store, board, key="probe", every_s=5.0, clock=lambda: now[0])
    until(lambda: probe.turn() or not board.missing, 60, "the store answers")
    assert [probe.turn() for _ in range(9)] == [None] * 9
    assert store.looks == 1

    now[0], store.error = 5.0, AWAY
    assert until(probe.turn, 60, "the store is missed") is AWAY
    assert board.missing == {"store": "storage-unavailable"}


class Counting(Loop):
    """Raises its errors one by one, then pauses."""

    name = "counting"

    def __init__(self, context: LoopContext, *steps: Exception) -> None:
        super().__init__(context)
        self.steps, self.turns, self.closed = list(steps), 0, False

    def turn(self) -> None:
        self.turns += 1
        if self.steps:
            raise self.steps.pop(0)
        self.pause(60)

    def close(self) -> None:
        self.closed = True


def _service(tmp_path: Path, stop: Stop, *steps: Exception) -> tuple[WebService, Counting]:
    board = WebBoard("web")
    loop = Counting(LoopContext(board, stop, backoff=Backoff(0, 0)), *steps)
    store = open_store(StorageSettings(f"file:{tmp_path / 'store'}"))
    service = WebService(
        app=health_app(board),
        address=Address("127.0.0.1", 0, tmp_path / "token", tmp_path / "run"),
        board=board,
        stop=stop,
        probe=StoreProbe(store, board, key="probe", every_s=5.0),
        loops=[loop],
    )
    return service, loop


def test_a_web_service_says_where_it_listens_and_leaves_when_it_is_stopped(tmp_path: Path):
    stop = Stop()
    service, loop = _service(tmp_path, stop, AWAY, RuntimeError("boom"))
    thread = threading.Thread(target=service.run)
    thread.start()
    until(lambda: loop.turns == 3, 60, "the loop goes on after what failed")
    (path,) = (tmp_path / "run").glob("web-*.json")
    assert json.loads(path.read_text())["token_file"] == str(tmp_path / "token")
    stop.request()
    thread.join(60)
    assert not thread.is_alive()
    assert loop.closed
    assert not path.exists()


def test_a_loop_that_needs_a_person_ends_the_service(tmp_path: Path):
    service, loop = _service(tmp_path, Stop(), DENIED)
    assert exit_code(service.run) == DENIED.exit_code
    assert loop.closed

"""The smaller parts: waits, the pulse, what the child sends, what the board shows."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any

import pytest
from worker_fakes import BUS_AWAY, EVENT, NOW, World, drafted

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.backoff import Backoff
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import aside
from histgen_lib.runtime.stopping import Stopped
from histgen_lib.telemetry import bound
from histgen_lib.worker import child
from histgen_lib.worker.child import Answer, Check, Checked, Failed, Find, Handle, StageProgress
from histgen_lib.worker.handler import Outcome


def test_delays_double_up_to_a_limit_and_chance_shortens_them_by_up_to_half():
    assert list(islice(Backoff(0.5, 30.0).delays(lambda: 0.0), 8)) == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert list(islice(Backoff(0.5, 30.0).delays(lambda: 1.0), 3)) == [0.25, 0.5, 1]


def test_delays_never_end():
    assert list(islice(Backoff().delays(lambda: 0.0), 5000))[-1] == 30.0


def test_membership_is_kept_while_a_request_takes_long(world: World):
    go = threading.Event()
    kept = world.bus.keep
    world.bus.keep = lambda: (go.set(), kept())[1]
    kit = world.kit()
    assert kit.pulse.until(aside(lambda: go.wait(60))) is True


def test_a_member_notices_that_it_lost_its_record(world: World):
    kit = world.kit()
    world.bus.ours = False
    kit.pulse.beat()
    assert kit.pulse.lost


def test_a_broker_outage_during_a_job_is_no_error(world: World):
    kit = world.kit()
    world.bus.fail("keep", BUS_AWAY)
    kit.pulse.beat()
    assert kit.board.missing["broker"] == "bus-unavailable"


def test_waiting_partitions_are_shown_until_they_continue(world: World):
    kit = world.kit()
    kit.board.missing = {}
    world.bus.waiting = TransientError("bus-record", "Partitions wait: slide.scanned/3/17.")
    kit.pulse.polled()
    assert kit.board.missing == {"records": "bus-record"}
    world.bus.waiting = None
    kit.pulse.polled()
    assert kit.board.missing == {}


@pytest.mark.parametrize(("holding", "patient"), [(False, True), (True, False)])
def test_a_stop_ends_pauses_that_need_not_be_finished(world: World, holding: bool, patient: bool):
    kit = world.kit()
    kit.pulse.holding = holding
    world.stop.request()
    with pytest.raises(Stopped):
        kit.pulse.pause(60, patient=patient)


class _Pipe:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class _Handler:
    def __init__(self, result: Any) -> None:
        self.result = result

    def find(self, event: Any) -> Any:
        return self.handle(event, None)

    def handle(self, event: Any, progress: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def ready(self) -> Any:
        return self.handle(None, None)


class _OwnError(InvalidInputError):
    """A service's own class, with a constructor that unpickling would stumble over."""

    def __init__(self) -> None:
        super().__init__("slide-damaged", "It is damaged.", hint="Copy it.")


@pytest.mark.parametrize(
    ("raised", "kind", "name"),
    [
        (_OwnError(), InvalidInputError, ""),
        (TransientError("a-b", "m"), TransientError, ""),
        (FatalError("a-b", "m"), FatalError, ""),
        (HistgenError("a-b", "m"), type(None), "HistgenError"),
        (KeyError("DOE"), type(None), "KeyError"),
        (SystemExit(0), type(None), "SystemExit"),
        (MemoryError(), type(None), "MemoryError"),
    ],
)
def test_the_child_sends_errors_that_any_process_can_read(raised: BaseException, kind: type, name: str):
    sent = child._answer(_Handler(raised), Handle(EVENT, 1), _Pipe())
    assert isinstance(sent, Failed)
    assert (type(sent.error), sent.unexpected) == (kind, name)
    assert "DOE" not in repr(sent)


@pytest.mark.parametrize("result", ["text", Outcome(["no event"]), Outcome([], {"a": "b"}), object()])
def test_an_unusable_outcome_is_a_failure(result: Any):
    assert isinstance(child._answer(_Handler(result), Handle(EVENT, 1), _Pipe()), Failed)


def test_find_answers_none_if_it_finds_nothing():
    assert child._answer(_Handler(None), Find(EVENT), _Pipe()) == Answer(None)
    outcome = Outcome([drafted(EVENT)], {"stage:read": 1})
    assert child._answer(_Handler(outcome), Find(EVENT), _Pipe()).outcome.measures == {"stage:read": 1.0}


@pytest.mark.parametrize(
    ("result", "missing"),
    [
        ([], ()),
        (["triton"], ("triton",)),
        (TransientError("a-b", "m"), ("a-b",)),
        (KeyError("DOE"), ("KeyError",)),
    ],
)
def test_a_readiness_check_never_fails(result: Any, missing: tuple[str, ...]):
    assert child._answer(_Handler(result), Check(), _Pipe()) == Checked(missing)


def test_progress_is_sent_at_each_new_stage_and_rarely_within_one():
    pipe = _Pipe()
    tell = child._ProgressSender(pipe)
    with bound(stage=""):
        for done in range(1000):
            tell("encode", done, 1000)
        tell("generate", 0, 1)
    assert pipe.sent[0] == StageProgress("encode", 0, 1000)
    assert pipe.sent[-1] == StageProgress("generate", 0, 1)
    assert len(pipe.sent) <= 4


def test_liveness_follows_the_poll_loop():
    now = [0.0]
    board = Board("b", clock=lambda: now[0])
    board.turn()
    assert board.live()
    now[0] = 31.0
    assert not board.live()
    board.turn()
    assert board.live()


def test_the_board_shows_the_job_in_hand_and_its_slides_age():
    board = Board("b", now=lambda: NOW)
    board.take(EVENT)
    board.progress(stage="encode", done=3, total=9)
    shown = board.status()["in_flight"]
    assert (shown["slide_id"], shown["stage"], shown["done"], shown["total"]) == ("S1", "encode", 3, 9)
    assert board.oldest_s() == 0
    board.drop()
    assert board.status()["in_flight"] is None

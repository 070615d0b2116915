"""A thread that waits stays alive, remains a member of its group, and notices a stop."""

from __future__ import annotations

import threading
from itertools import islice

import pytest

from histgen_lib.bus import Delivery
from histgen_lib.errors import TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import CALM_LAG_S, Backoff, Pulse, in_background
from histgen_lib.runtime.stopping import Stop, Stopped

BUS_AWAY = TransientError("bus-unavailable", "The broker is away.")


class Membership:
    """A subscription without records. `ours`: what `keep` answers; `away`: the broker fails."""

    def __init__(self) -> None:
        self.ours, self.away = True, False
        self.kept = 0
        self.waited: list[float] = []
        self.waiting: TransientError | None = None

    def next(self, timeout_s: float) -> Delivery | None:
        self._answer()
        self.waited.append(timeout_s)
        return None

    def keep(self) -> bool:
        self._answer()
        self.kept += 1
        return self.ours

    def lag(self) -> int:
        self._answer()
        return 0

    def trouble(self) -> TransientError | None:
        return self.waiting

    def _answer(self) -> None:
        if self.away:
            raise BUS_AWAY


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def member() -> Membership:
    return Membership()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board("w", clock=clock, missing={})


@pytest.fixture
def pulse(board: Board, clock: Clock, member: Membership) -> Pulse:
    pulse = Pulse(board, Stop(), grace_s=20.0, backoff=Backoff(0, 0), clock=clock)
    pulse.subscription = member
    return pulse


def test_delays_double_up_to_the_most_and_chance_takes_up_to_half():
    assert list(islice(Backoff(0.5, 30.0).delays(lambda: 0.0), 8)) == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert list(islice(Backoff(0.5, 30.0).delays(lambda: 1.0), 3)) == [0.25, 0.5, 1]


def test_delays_never_end():
    assert list(islice(Backoff().delays(lambda: 0.0), 5000))[-1] == 30.0


def test_membership_is_kept_while_a_call_takes_long(pulse: Pulse, member: Membership):
    go = threading.Event()
    kept = member.keep
    member.keep = lambda: (go.set(), kept())[1]
    assert pulse.until(in_background(lambda: go.wait(60))) is True


def test_membership_is_kept_a_few_times_a_second_and_no_oftener(
    pulse: Pulse, member: Membership, clock: Clock
):
    for _ in range(100):
        clock.now += 0.01
        pulse.beat()
    assert 4 <= member.kept <= 6


def test_a_member_whose_record_went_to_another_notices(pulse: Pulse, member: Membership):
    pulse.take()
    member.ours = False
    pulse.beat()
    assert pulse.lost


def test_a_broker_outage_during_work_is_shown_and_is_no_error(
    pulse: Pulse, member: Membership, board: Board, clock: Clock
):
    member.away = True
    pulse.beat()
    assert board.missing == {"broker": "bus-unavailable"}
    member.away, clock.now = False, clock.now + CALM_LAG_S
    pulse.beat()
    assert board.missing == {}


def test_partitions_that_wait_are_shown_until_they_go_on(pulse: Pulse, member: Membership, board: Board):
    member.waiting = TransientError("bus-record", "Partitions wait: slide.scanned/3/17.")
    pulse.next(member)
    assert board.missing == {"records": "bus-record"}
    member.waiting = None
    pulse.next(member)
    assert board.missing == {}


def test_the_longer_no_record_came_the_longer_the_waits_for_the_next(
    pulse: Pulse, member: Membership, clock: Clock
):
    for at in (0, 10, 1000):
        clock.now = 100.0 + at
        pulse.next(member)
    pulse.take()
    pulse.drop()
    pulse.next(member)
    assert member.waited == [0.25, 1.0, 2.0, 0.25]


def test_a_step_is_repeated_until_its_server_answers(pulse: Pulse, board: Board):
    missing: list[dict[str, str]] = []

    def step() -> str:
        missing.append(board.missing)
        if len(missing) < 3:
            raise TransientError("storage-unavailable", "The store is away.")
        return "stored"

    assert pulse.insist("store", step) == "stored"
    assert missing == [{}, {"store": "storage-unavailable"}, {"store": "storage-unavailable"}]
    assert board.missing == {}


def test_a_step_in_the_background_is_repeated_as_well(pulse: Pulse):
    threads: list[threading.Thread] = []

    def step() -> int:
        threads.append(threading.current_thread())
        if len(threads) < 2:
            raise BUS_AWAY
        return 7

    assert pulse.insist("broker", step, background=True) == 7
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(("holding", "patient"), [(False, True), (True, False)])
def test_a_stop_ends_waits_that_need_not_be_finished(board: Board, holding: bool, patient: bool):
    stop = Stop()
    pulse = Pulse(board, stop, grace_s=20.0)
    pulse.holding = holding
    stop.request()
    with pytest.raises(Stopped):
        pulse.pause(60, patient=patient)


def test_work_in_hand_gets_the_grace_period(board: Board, clock: Clock):
    stop = Stop(clock)
    pulse = Pulse(board, stop, grace_s=20.0, clock=clock)
    pulse.take()
    stop.request()
    pulse.beat()
    clock.now += 20.0
    with pytest.raises(Stopped):
        pulse.beat()

"""A job's stages are reported to its caller and timed for the metrics, by one statement each."""

from __future__ import annotations

import pytest

from histgen_lib.pipeline.job import Stages


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture
def stages(clock: Clock, calls: list[tuple[str, int, int]]) -> Stages:
    return Stages(lambda *call: calls.append(call), clock=clock)


def test_a_stage_is_reported_at_its_beginning_and_its_end_and_timed(stages, clock, calls):
    with stages("render"):
        clock.now += 2
        assert calls == [("render", 0, 1)]
    clock.now += 50

    assert calls == [("render", 0, 1), ("render", 1, 1)]
    assert stages.measures() == {"stage:render": 2.0}


def test_a_stage_that_fails_is_timed_but_not_reported_as_finished(stages, clock, calls):
    def fail() -> None:
        with stages("open"):
            clock.now += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert calls == [("open", 0, 1)]
    assert stages.measures() == {"stage:open": 3.0}


def test_the_time_of_a_stage_inside_another_counts_once(stages, clock, calls):
    with stages("render"):
        clock.now += 1
        with stages.timed("read"):
            clock.now += 10
        clock.now += 2

    assert stages.measures() == {"stage:render": 3.0, "stage:read": 10.0}
    assert [stage for stage, _, _ in calls] == ["render", "render"]


def test_a_stage_that_comes_again_adds_up(stages, clock):
    for seconds in (1, 2):
        with stages.timed("encode"):
            clock.now += seconds
        stages.count("histgen_tiles_encoded_total", 32)

    assert stages.measures() == {"stage:encode": 3.0, "histgen_tiles_encoded_total": 64.0}

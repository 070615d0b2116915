"""While all is well the supervisor asks rarely; what happens has it look at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from waiting import until

from histgen_lib.errors import TransientError
from histgen_lib.inference import Supervisor


class Watched:
    """A supervisor of a model that is well or not, on a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.checks, self.rounds, self.well, self.news = 0.0, 0, 0, True, False
        self.supervisor = Supervisor(
            "triton://127.0.0.1:1",
            ["histgen"],
            interval_s=0.001,
            calm_s=10.0,
            disturbed=self.disturbed,
            clock=lambda: self.now,
        )
        monkeypatch.setattr(self.supervisor._server, "canary", self.canary)

    def disturbed(self) -> bool:
        self.rounds += 1
        news, self.news = self.news, False
        return news

    def canary(self, model: str, deadline_s: float) -> None:
        self.checks += 1
        if not self.well:
            raise TransientError("inference-deadline", "It is busy.")

    def turn(self) -> int:
        """Let some rounds pass; return how often the model was asked meanwhile."""
        checks, rounds = self.checks, self.rounds
        until(lambda: self.rounds > rounds + 5, 60, "some rounds")
        return self.checks - checks


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    watched = Watched(monkeypatch)
    watched.supervisor.start()
    until(lambda: watched.checks == 1, 60, "the first look")
    yield watched
    watched.supervisor.stop()


def test_a_healthy_model_is_checked_again_only_after_the_calm_interval(watched: Watched) -> None:
    assert watched.turn() == 0
    watched.now = 10.5
    assert watched.turn() == 1


def test_a_disturbance_causes_an_immediate_check(watched: Watched) -> None:
    watched.turn()
    watched.news = True
    assert watched.turn() == 1


def test_an_unhealthy_model_is_checked_every_time(watched: Watched) -> None:
    watched.well, watched.now = False, 10.5
    assert watched.turn() >= 4
    watched.well = True
    watched.turn()
    assert watched.turn() == 0

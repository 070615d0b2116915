"""The metrics say of each model that is supervised whether it is up."""

from __future__ import annotations

import pytest

from histgen_lib.errors import TransientError
from histgen_lib.inference import Supervisor
from histgen_lib.inference._connection import CallFailedError
from histgen_lib.telemetry import metrics

AWAY = TransientError("inference-unavailable", "Away.")
LATE = TransientError("inference-deadline", "Late.")


class Model:
    """A model on a server; `fails` is what its canary raises, `executions` how often it has run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.executions, self.hung = 0.0, 0, 0
        self.fails: TransientError | None = None
        self.supervisor = Supervisor(
            "triton://127.0.0.1:1", ["shown"], hung_s=1800, on_hung=self.note, clock=lambda: self.now
        )
        connection = self.supervisor._connection
        monkeypatch.setattr(self.supervisor._server, "canary", self.canary)
        monkeypatch.setattr(connection, "executions", lambda _: self.executions)
        monkeypatch.setattr(connection, "models", self.gone)
        monkeypatch.setattr("histgen_lib.inference._supervisor.clear_server", lambda _: None)

    def note(self, model: str) -> None:
        self.hung += 1

    def gone(self) -> dict[str, tuple[str, str]]:
        raise CallFailedError(AWAY)

    def canary(self, model: str, deadline_s: float) -> None:
        if self.fails:
            raise self.fails

    def looked(self, now: float) -> float | None:
        """Look at this time; return what the metrics say then."""
        self.now = now
        self.supervisor.look()
        return metrics.REGISTRY.get_sample_value("histgen_inference_canary_up", {"model": "shown"})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(monkeypatch)


def test_a_model_is_up_once_it_answers_and_down_while_it_does_not(model: Model) -> None:
    assert metrics.REGISTRY.get_sample_value("histgen_inference_canary_up", {"model": "shown"}) == 0
    assert model.looked(0) == 1
    model.fails = AWAY
    assert model.looked(1) == 0
    model.fails = None
    assert model.looked(2) == 1


def test_a_busy_model_is_up_as_long_as_it_finishes_something(model: Model) -> None:
    model.fails = LATE
    assert model.looked(0) == 1
    assert model.looked(299) == 1
    model.executions = 1
    assert model.looked(599) == 1
    assert model.looked(898) == 1


def test_a_model_that_finishes_nothing_is_down_long_before_it_is_reloaded(model: Model) -> None:
    model.fails = LATE
    assert model.looked(0) == 1
    assert model.looked(300) == 0
    assert model.hung == 0
    assert model.looked(1800) == 0
    assert model.hung == 1

"""What the child process sends to its parent."""

from __future__ import annotations

from typing import Any

import pytest
from worker_fakes import EVENT, drafted

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.pipeline.job import ModelInUse
from histgen_lib.telemetry import bound
from histgen_lib.worker import child
from histgen_lib.worker.child import Answer, Check, Checked, Failed, Find, Handle, StageProgress
from histgen_lib.worker.handler import Outcome


class _Pipe:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class _Handler:
    def __init__(self, result: Any, used: Any = ()) -> None:
        self.result, self.used = result, used

    def find(self, event: Any) -> Any:
        return self.handle(event, None)

    def handle(self, event: Any, progress: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def ready(self) -> Any:
        return self.handle(None, None)

    def models(self) -> Any:
        return self.used


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


def test_every_answer_says_which_models_are_in_use():
    used = ModelInUse("histgen", "synthetic-he", "0123456789ab", "triton:python")

    assert child._answer(_Handler(None, [used]), Find(EVENT), _Pipe()).models == (used,)
    assert child._answer(_Handler((), [used]), Check(), _Pipe()).models == (used,)
    assert child._answer(_Handler(Outcome(), [used]), Handle(EVENT, 1), _Pipe()).models == (used,)


def test_models_that_cannot_be_told_stop_no_job():
    assert child._answer(_Handler(None, [1]), Find(EVENT), _Pipe()) == Answer(None)

"""What the worker makes of a child that answers, dies, hangs or answers late; the child is a script."""

from __future__ import annotations

import os
from collections import deque
from typing import Unpack

import pytest
from worker_fakes import EVENT, Limits, World

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.pipeline.job import ModelInUse
from histgen_lib.telemetry import metrics
from histgen_lib.worker import runner as runner_module
from histgen_lib.worker.child import (
    Answer,
    Check,
    Checked,
    Failed,
    Find,
    Handle,
    Message,
    Request,
    StageProgress,
    Started,
)
from histgen_lib.worker.failures import JobFailedError
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.runner import ProcessDiedError, Runner

DEATH = ProcessDiedError(-9)
BAD = InvalidInputError("slide-damaged", "It is damaged.")


Scripted = Message | ProcessDiedError | None


class ScriptedProcess:
    """In place of a JobProcess: `script` is what `receive` gives; None is a wait without a message."""

    def __init__(self, *script: Scripted) -> None:
        self.script = deque(script)
        self.pid: int | None = None
        self.sent: list[Request] = []
        self.starts = 0
        self.stands_still = False
        self.next_scripts: list[list[Scripted]] = []

    def start(self) -> None:
        self.starts += 1
        self.pid = self.starts
        if self.starts > 1 and self.next_scripts:
            self.script = deque(self.next_scripts.pop(0))

    def send(self, request: Request) -> None:
        self.sent.append(request)

    def receive(self, timeout_s: float) -> Message | None:
        step = self.script.popleft() if self.script else None
        if isinstance(step, Exception):
            self.kill()
            raise step
        return step

    def is_frozen(self, limit_s: float) -> bool:
        return self.stands_still and limit_s > 0

    def kill(self) -> None:
        self.pid = None


def _runner(world: World, process: ScriptedProcess, **limits: Unpack[Limits]) -> Runner:
    worker = world.worker(**limits)
    return Runner(worker.spec, process, worker.board, worker.pulse)


def _reason(caught: pytest.ExceptionInfo[JobFailedError]) -> str:
    return caught.value.reason.code


def test_a_job_is_requested_and_its_progress_shown(world: World):
    worker = world.worker()
    worker.board.take(EVENT)
    process = ScriptedProcess(Started(), None, StageProgress("encode", 3, 9), Answer(Outcome()))
    assert Runner(worker.spec, process, worker.board, worker.pulse).handle(EVENT, 2) == Outcome()
    assert process.sent == [Handle(EVENT, 2)]
    assert worker.board.flight
    assert (worker.board.flight.stage, worker.board.flight.done) == ("encode", 3)


def test_the_models_that_the_child_uses_are_shown_and_follow_it(world: World):
    """First the engine is not known; then the job has asked it; then a child with another model starts."""

    def shown() -> set[tuple[str, ...]]:
        found = [one for metric in metrics.MODEL_INFO.collect() for one in metric.samples]
        return {tuple(one.labels[name] for name in ("name", "digest", "engine")) for one in found}

    first, known, other = (
        ModelInUse("histgen", "a", "aa", "triton"),
        ModelInUse("histgen", "a", "aa", "triton:python"),
        ModelInUse("histgen", "b", "bb", "onnx"),
    )
    metrics.MODEL_INFO.clear()
    process = ScriptedProcess(Started((first,)), None, Answer(Outcome(), (known,)))
    process.next_scripts = [[Started((other,)), None, Answer(Outcome(), (other,))]]
    runner = _runner(world, process)
    runner.warm()
    assert shown() == {first[1:]}
    runner.handle(EVENT, 1)
    assert shown() == {known[1:]}
    process.kill()
    runner.handle(EVENT, 1)
    assert shown() == {other[1:]}


def test_an_answer_at_the_last_moment_counts(world: World):
    """The time is over before the first look; what lies in the pipe by then is taken all the same."""
    process = ScriptedProcess(Started(), None, StageProgress("encode", 9, 9), Answer(Outcome()))
    assert _runner(world, process, deadline_s=0.0).handle(EVENT, 1) == Outcome()


def test_a_job_over_its_deadline_is_ended_and_another_child_started(world: World):
    process = ScriptedProcess(Started(), None)
    runner = _runner(world, process, deadline_s=0.0)
    with pytest.raises(JobFailedError) as caught:
        runner.handle(EVENT, 1)
    assert _reason(caught) == "job-deadline"
    assert process.pid is None
    process.script.extend([Started(), None, Answer(None)])
    assert runner.find(EVENT) is None
    assert process.starts == 2


def test_a_child_that_dies_in_a_job_is_a_crash(world: World):
    process = ScriptedProcess(Started(), None, StageProgress("open", 0, 1), DEATH)
    with pytest.raises(JobFailedError) as caught:
        _runner(world, process).handle(EVENT, 1)
    assert _reason(caught) == "job-crashed"


def test_a_child_that_died_before_the_job_is_replaced_and_the_job_done(world: World):
    process = ScriptedProcess(Started(), DEATH, Started(), Answer(Outcome()))
    assert _runner(world, process).handle(EVENT, 1) == Outcome()
    assert process.starts == 2
    assert process.sent == [Handle(EVENT, 1)]


@pytest.mark.parametrize(
    ("failed", "kind"), [(Failed(BAD), InvalidInputError), (Failed(None, "KeyError"), JobFailedError)]
)
def test_the_error_of_a_job_is_raised_again(world: World, failed: Failed, kind: type[Exception]):
    with pytest.raises(kind):
        _runner(world, ScriptedProcess(Started(), None, failed)).handle(EVENT, 1)


def test_a_record_that_comes_during_a_readiness_check_waits_for_its_answer(world: World, monkeypatch):
    monkeypatch.setattr(runner_module, "CHECK_S", 0.0)
    process = ScriptedProcess(Started(), None, Checked(["triton"]), Answer(None))
    worker = world.worker()
    runner = Runner(worker.spec, process, worker.board, worker.pulse)
    runner.tend()
    assert runner.find(EVENT) is None
    assert process.sent == [Check(), Find(EVENT)]
    assert worker.board.missing["job"] == "triton"


@pytest.mark.parametrize("busy", [True, False])
def test_a_readiness_check_that_hangs_is_no_jobs_fault(world: World, monkeypatch, busy: bool):
    monkeypatch.setattr(runner_module, "CHECK_S", 0.0)
    monkeypatch.setattr(runner_module, "CHECK_LIMIT_S", 0.001 if busy else 0.0)
    process = ScriptedProcess(Started(), None)
    runner = _runner(world, process)
    runner.tend()
    process.next_scripts = [[Started(), Answer(None)] if busy else [Started(), None, Answer(None)]]
    if not busy:
        runner.tend()
        assert process.pid is None
    assert runner.find(EVENT) is None
    assert process.starts == 2


def test_a_child_that_keeps_dying_at_its_start_is_a_fatal_error(world: World):
    process = ScriptedProcess(DEATH, DEATH, DEATH)
    runner = _runner(world, process, max_attempts=3)
    for _ in range(2):
        with pytest.raises(TransientError):
            runner.warm()
    with pytest.raises(FatalError):
        runner.warm()


def test_a_child_that_hangs_at_its_start_is_started_again(world: World):
    process = ScriptedProcess(None)
    runner = _runner(world, process, start_s=0.0)
    with pytest.raises(TransientError):
        runner.warm()
    process.script.append(Started())
    runner.warm()
    assert process.starts == 2


@pytest.mark.parametrize(
    ("failed", "kind", "code"),
    [
        (Failed(TransientError("inference-unavailable", "m")), TransientError, "inference-unavailable"),
        (Failed(FatalError("model-missing", "m")), FatalError, "model-missing"),
        (Failed(BAD), FatalError, "slide-damaged"),
        (Failed(None, "KeyError"), FatalError, "job-setup"),
    ],
)
def test_an_error_at_the_start_is_never_a_slides_fault(
    world: World, failed: Failed, kind: type[HistgenError], code: str
):
    with pytest.raises(kind) as caught:
        _runner(world, ScriptedProcess(failed)).warm()
    assert caught.value.code == code


def test_a_fatal_error_of_a_job_counts_as_a_crash_if_its_handler_can_be_made_anew(world: World):
    process = ScriptedProcess(Started(), None, Failed(FatalError("storage-denied", "m")))
    process.next_scripts = [[Started(), None, Answer(Outcome())]]
    runner = _runner(world, process)
    with pytest.raises(JobFailedError) as caught:
        runner.handle(EVENT, 1)
    assert _reason(caught) == "storage-denied"
    assert runner.handle(EVENT, 2) == Outcome()
    assert process.starts == 2


def test_an_installation_that_is_broken_ends_the_worker(world: World):
    broken = Failed(FatalError("model-missing", "m"))
    process = ScriptedProcess(Started(), None, broken)
    process.next_scripts = [[broken]]
    runner = _runner(world, process)
    with pytest.raises(JobFailedError):
        runner.handle(EVENT, 1)
    with pytest.raises(FatalError) as caught:
        runner.handle(EVENT, 2)
    assert caught.value.code == "model-missing"


def test_the_childs_memory_is_a_metric(world: World):
    process = ScriptedProcess()
    _runner(world, process)
    labels = {"worker": "w"}
    assert metrics.REGISTRY.get_sample_value("histgen_job_memory_bytes", labels) == 0
    process.pid = os.getpid()
    assert metrics.REGISTRY.get_sample_value("histgen_job_memory_bytes", labels) > 1 << 20


def test_a_stopped_child_is_replaced_and_neither_job_nor_slide_is_blamed(world: World):
    process = ScriptedProcess(Started(), None)
    process.stands_still = True
    with pytest.raises(TransientError) as caught:
        _runner(world, process).handle(EVENT, 1)

    assert caught.value.code == "job-frozen"
    assert process.pid is None

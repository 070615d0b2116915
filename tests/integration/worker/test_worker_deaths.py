"""Processes that are killed or stopped: nothing is lost, nothing is done twice, nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lab import Process, WorkerLab, alive, page
from waiting import until


def _child(lab: WorkerLab, slide_id: str) -> int:
    """Wait for the job's begin; return the process id of the child that does it."""
    until(lambda: lab.calls(slide_id), 60, "the job's begin")
    return int((lab.folder / "calls" / slide_id).read_text().split()[-1])


def test_a_child_killed_in_mid_job_is_replaced_and_the_job_done(lab: WorkerLab):
    lab.scan("held-1")
    worker = lab.thread()
    os.kill(_child(lab, "held-1"), signal.SIGKILL)
    lab.let_go("held-1")
    lab.finished("held-1")
    assert worker.end() == 0
    assert lab.calls("held-1") == 2
    assert list(lab.store.list("attempts/")) == []


def test_a_child_killed_between_jobs_costs_no_attempt(lab: WorkerLab):
    lab.scan("ok-1")
    worker = lab.thread(max_attempts=1)
    lab.finished("ok-1")
    child = _child(lab, "ok-1")
    os.kill(child, signal.SIGKILL)
    until(lambda: not alive(child), 60, "its death")
    lab.scan("ok-2")
    lab.finished("ok-2")
    assert worker.end() == 0
    assert lab.drafts() == {"ok-1", "ok-2"}
    assert lab.letters() == {}


def test_a_child_frozen_in_mid_job_is_replaced_and_costs_no_attempt(lab: WorkerLab):
    lab.scan("held-1")
    worker = lab.thread(max_attempts=1, frozen_s=0.5)
    child = _child(lab, "held-1")
    os.kill(child, signal.SIGSTOP)
    until(lambda: not alive(child), 60, "its end")
    lab.let_go("held-1")
    lab.finished("held-1")
    assert worker.end() == 0
    assert lab.drafts() == {"held-1"}
    assert lab.letters() == {}
    assert list(lab.store.list("attempts/")) == []


def test_a_killed_worker_takes_its_child_along_and_the_next_one_takes_over(lab: WorkerLab):
    lab.scan("held-1", "ok-1")
    first = lab.process()
    child = _child(lab, "held-1")
    first.kill()
    until(lambda: not alive(child), 60, "the child's end")
    assert lab.attempts("held-1") == 1
    lab.let_go("held-1")
    second = lab.thread()
    lab.finished("held-1", "ok-1")
    assert second.end() == 0
    assert lab.drafts() == {"held-1", "ok-1"}
    assert lab.published("report.drafted") == {"held-1": 1, "ok-1": 1}
    assert list(lab.store.list("attempts/")) == []


def test_a_slide_that_kills_its_workers_is_given_up_after_the_last_attempt(lab: WorkerLab):
    """Poison for the parent itself: attempts count though no worker survives to tell."""
    lab.scan("held-1", "ok-1")
    for attempt in (1, 2):
        worker = lab.process(max_attempts=2, session_s=1.0)
        until(lambda n=attempt: lab.calls("held-1") == n, 60, "the job's begin")
        worker.kill()
    last = lab.thread(max_attempts=2, session_s=1.0)
    lab.finished("held-1", "ok-1")
    assert last.end() == 0
    letter = lab.letters()["held-1"]
    assert (letter.code, letter.attempts) == ("worker-died", 2)
    assert lab.drafts() == {"ok-1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_job_is_finished_within_the_grace_period(lab: WorkerLab, number: signal.Signals):
    lab.scan("held-1")
    worker = lab.process()
    _child(lab, "held-1")
    lab.scan("ok-after")
    url = worker.url
    worker.signal(number)
    until(lambda: page(f"{url}/status")[1]["phase"] == "stopping", 60, "the stop")
    assert page(f"{url}/readyz")[0] == 503
    lab.let_go("held-1")
    assert worker.wait() == 0
    assert lab.drafts() == {"held-1"}
    assert lab.left() == 1
    assert list((lab.folder / "run").rglob("*.json")) == []


def test_a_signal_to_the_whole_process_group_is_handled_by_the_parent(lab: WorkerLab):
    """Ctrl-C reaches the child too: it must not end the job."""
    lab.scan("held-1")
    worker = lab.process()
    child = _child(lab, "held-1")
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    worker.signal(signal.SIGINT)
    until(lambda: page(f"{worker.url}/status")[1]["phase"] == "stopping", 60, "the stop")
    lab.let_go("held-1")
    assert worker.wait() == 0
    assert lab.calls("held-1") == 1
    assert lab.drafts() == {"held-1"}


def test_beyond_the_grace_period_the_job_is_handed_back_uncounted(lab: WorkerLab):
    lab.scan("hang-1")
    worker = lab.process(grace_s=0.3)
    child = _child(lab, "hang-1")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert not alive(child)
    assert lab.attempts("hang-1") == 0
    assert lab.left() == 1


def test_a_record_that_was_handed_back_goes_to_another_member_at_once(lab: WorkerLab):
    lab.scan("held-1")
    first = lab.process(grace_s=0.1, session_s=600.0)
    _child(lab, "held-1")
    second = lab.thread(session_s=600.0)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    lab.let_go("held-1")
    lab.finished("held-1")
    assert second.end() == 0
    assert lab.calls("held-1") == 2


def test_a_second_signal_ends_the_worker_at_once(lab: WorkerLab):
    lab.scan("hang-1")
    worker = lab.process(grace_s=3600.0)
    child = _child(lab, "hang-1")
    url = worker.url
    worker.signal(signal.SIGTERM)
    until(lambda: page(f"{url}/status")[1]["phase"] == "stopping", 60, "the stop")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    until(lambda: not alive(child), 60, "the child's end")
    until(lambda: lab.left() == 1, 60, "the record, after the session")


def test_a_stop_while_idle_is_quick_and_clean(lab: WorkerLab):
    worker = lab.process()
    until(lambda: page(f"{worker.url}/readyz")[0] == 200, 60, "readiness")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_log_lines_are_json_and_carry_the_ids(lab: WorkerLab):
    lab.scan("ok-1", "odd-1")
    worker: Process = lab.process(max_attempts=1)
    lab.finished("ok-1", "odd-1")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    (runs,) = [
        line for line in worker.lines() if line["event"] == "The job runs." and line["slide_id"] == "ok-1"
    ]
    assert {"event_id", "trace_id", "worker", "service", "stage", "attempt"} <= set(runs)
    assert runs["stage"] == "encode"
    ends = {line["slide_id"]: line["outcome"] for line in worker.lines() if "outcome" in line}
    assert ends == {"ok-1": "done", "odd-1": "dead-letter"}
    assert "DOE" not in Path(worker.log).read_text()

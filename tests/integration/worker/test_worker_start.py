"""Before the first record: a worker that cannot do its job takes none; and the pages it serves."""

from __future__ import annotations

import signal

import pytest
from lab import WorkerLab, page
from waiting import until

from histgen_lib.telemetry import metrics


def _setup(lab: WorkerLab, how: str) -> None:
    (lab.folder / "setup").write_text(how)


@pytest.mark.parametrize("how", ["bad", "crash"])
def test_a_job_that_cannot_be_set_up_ends_the_worker_before_it_takes_a_record(lab: WorkerLab, how: str):
    """Also by an InvalidInputError: before the first slide no slide can be at fault."""
    _setup(lab, how)
    lab.scan("ok-1")
    assert lab.thread(max_attempts=2).wait() == 78
    assert lab.left() == 1
    assert lab.letters() == {}


def test_a_server_outage_at_the_start_is_waited_out(lab: WorkerLab):
    _setup(lab, "away")
    lab.scan("ok-1")
    worker = lab.thread()
    until(lambda: page(f"{worker.url}/readyz")[1]["missing"].get("process") == "told-so", 60, "the outage")
    assert page(f"{worker.url}/healthz") == (200, {"live": True})
    assert lab.calls("ok-1") == 0
    (lab.folder / "setup").unlink()
    lab.finished("ok-1")
    assert worker.end() == 0


def test_a_child_whose_worker_ends_before_it_is_ready_ends_silently(lab: WorkerLab):
    """What multiprocessing would say of it is no line of JSON, and might repeat anything."""
    worker = lab.process()
    assert worker.url
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert {line["level"] for line in worker.lines()} == {"info"}


def test_a_stop_during_the_start_is_obeyed(lab: WorkerLab):
    _setup(lab, "away")
    worker = lab.thread()
    until(lambda: page(f"{worker.url}/readyz")[1]["missing"].get("process") == "told-so", 60, "the outage")
    assert worker.end() == 0


def test_an_idle_worker_shows_when_a_dependency_of_its_job_is_missing(lab: WorkerLab, monkeypatch):
    monkeypatch.setattr("histgen_lib.worker.runner.CHECK_S", 0.05)
    worker = lab.thread()
    until(lambda: page(f"{worker.url}/readyz")[0] == 200, 60, "readiness")
    (lab.folder / "away").touch()
    until(
        lambda: page(f"{worker.url}/readyz") == (503, {"ready": False, "missing": {"job": "triton"}}),
        60,
        "503",
    )
    (lab.folder / "away").unlink()
    until(lambda: page(f"{worker.url}/readyz")[0] == 200, 60, "readiness")
    assert worker.end() == 0


def test_the_pages_show_the_job_in_hand(lab: WorkerLab):
    lab.scan("held-1")
    worker = lab.thread()
    until(lambda: lab.calls("held-1"), 60, "the job's begin")
    status = until(lambda: _working(worker.url), 60, "the job on the page")
    flight = status["in_flight"]
    assert (flight["slide_id"], flight["attempt"], flight["total"]) == ("held-1", 1, 10)
    assert flight["seconds"] >= 0
    text = page(f"{worker.url}/metrics")[1]
    assert [metric._name for metric in metrics.ALL if f"# HELP {metric._name}" not in text] == []
    assert 'histgen_in_flight{worker="tiler"} 1.0' in text
    assert "held-1" not in text
    assert page(f"{worker.url}/status", token="")[0] == 401
    assert page(f"{worker.url}/status", token="0" * 64)[1]["error"]["code"] == "token-wrong"
    lab.let_go("held-1")
    lab.finished("held-1")
    assert worker.end() == 0


def _working(url: str):
    status = page(f"{url}/status")[1]
    return status if status["in_flight"] and status["in_flight"]["stage"] == "encode" else None


def test_a_taken_port_ends_the_worker_with_a_code_that_allows_a_restart(lab: WorkerLab):
    worker = lab.thread()
    port = int(worker.url.rsplit(":", 1)[1])
    assert lab.thread(port=port).wait() == 75
    assert worker.end() == 0

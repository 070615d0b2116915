"""The worker on a real Kafka: takeover, membership through a long job, and members that come and go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import worker_jobs
from lab import WorkerLab, page
from waiting import until

from histgen_lib.bus import open_subscription
from histgen_lib.stack.kafka import KafkaProcess


@pytest.fixture
def lab(own_kafka: KafkaProcess, tmp_path: Path) -> Iterator[WorkerLab]:
    """Make a lab on a broker of its own: the topics are the product's."""
    (tmp_path / "broker").write_text(own_kafka.url)
    lab = WorkerLab(tmp_path)
    yield lab
    lab.close()


def test_on_kafka_every_slide_ends_once_while_members_die_join_and_work_for_long(lab: WorkerLab):
    lab.scan("held-1")
    first = lab.process(session_s=1.0, max_attempts=2)
    until(lambda: lab.calls("held-1") == 1, 60, "the job's begin")
    first.kill()
    second = lab.process(session_s=1.0, max_attempts=2)
    until(lambda: lab.calls("held-1") == 2, 60, "the takeover")
    third = lab.process(session_s=1.0, max_attempts=2)
    good = [f"ok-{number}" for number in range(12)]
    lab.scan(*good, "bad-1", "odd-1")
    until(lambda: page(f"{third.url}/status")[1]["jobs_done"], 60, "the newcomer's first job")
    until(lambda: _seconds(second.url) > 4, 60, "four sessions to pass")
    lab.let_go("held-1")
    lab.written("held-1", *good, "bad-1", "odd-1")
    for worker in (third, second):
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert lab.calls("held-1") == 2
    assert [lab.calls(slide) for slide in good] == [1] * len(good)
    assert lab.drafts() == {"held-1", *good}
    codes = {slide: letter.code for slide, letter in lab.letters().items()}
    assert codes == {"bad-1": "slide-damaged", "odd-1": "job-failed"}
    assert _left(lab) == 0


def test_on_kafka_others_pass_a_slide_whose_share_is_away(lab: WorkerLab):
    (lab.folder / "share").touch()
    good = [f"ok-{number}" for number in range(8)]
    lab.scan("share-1", *good, "big-1")
    worker = lab.process()
    lab.written(*good, "big-1")
    until(lambda: page(f"{worker.url}/status")[1]["set_aside"]["count"] == 1, 60, "it to be aside")
    (lab.folder / "share").unlink()
    lab.written("share-1")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert lab.drafts() == {"share-1", "big-1", *good}
    assert {slide: letter.code for slide, letter in lab.letters().items()} == {"big-1": "event-too-large"}
    assert _left(lab) == 0


def test_on_kafka_a_damaged_record_becomes_a_letter_and_its_partition_continues(
    lab: WorkerLab, own_kafka: KafkaProcess
):
    lab.scan("ok-1", "ok-1", "ok-1")
    logs = own_kafka.log_path.parent.glob("logs/slide.scanned-*/*.log")
    (log,) = (path for path in logs if path.stat().st_size)
    data = bytearray(log.read_bytes())
    data[-1] ^= 0xFF  # the last of the three
    with log.open("r+b") as file:
        file.write(data)
    lab.scan("ok-1", "ok-2")
    worker = lab.thread()
    lab.written("ok-1", "ok-2", "")
    jobs_done = lambda: page(f"{worker.url}/status")[1]["jobs_done"]  # noqa: E731
    until(lambda: jobs_done() == 5, 60, "all records to be finished")
    letter = lab.letters()[""]

    assert letter.code == "record-damaged"
    assert letter.record["position"] == f"slide.scanned/{log.parent.name.rpartition('-')[2]}/2"
    assert page(f"{worker.url}/readyz")[0] == 200
    worker.stop.request()
    assert worker.wait() == 0
    assert _left(lab) == 0


def _left(lab: WorkerLab) -> int:
    """Join the group and ask what it has not finished."""
    group = f"tilers-{lab.folder.name}"
    subscription = open_subscription(worker_jobs.bus(lab.folder), "slide.scanned", group)
    try:
        assert subscription.next(5.0) is None
        return subscription.lag()
    finally:
        subscription.close()


def _seconds(url: str) -> float:
    flight = page(f"{url}/status")[1]["in_flight"]
    return flight["seconds"] if flight else 0.0

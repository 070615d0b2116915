"""Every event ends in one object or one letter: real child processes, broker and store on disk."""

from __future__ import annotations

import os
import signal

from lab import WorkerLab, page
from waiting import until


def test_good_slides_become_drafts_and_leave_nothing_behind(lab: WorkerLab):
    slides = [f"ok-{number}" for number in range(10)]
    lab.scan(*slides)
    worker = lab.thread()
    lab.finished(*slides)
    assert worker.end() == 0
    assert lab.drafts() == set(slides)
    assert lab.left() == 0
    assert list(lab.store.list("attempts/")) == []


def test_bad_slides_among_good_ones_become_letters_with_their_codes(lab: WorkerLab):
    slides = ["ok-1", "bad-1", "crash-1", "odd-1", "ok-2", "once-crash-1"]
    lab.scan(*slides)
    worker = lab.thread(max_attempts=2)
    lab.finished(*slides)
    assert worker.end() == 0
    letters = lab.letters()
    codes = {slide: (letter.code, letter.attempts) for slide, letter in letters.items()}
    assert codes == {"bad-1": ("slide-damaged", 1), "crash-1": ("job-crashed", 2), "odd-1": ("job-failed", 2)}
    assert lab.drafts() == {"ok-1", "ok-2", "once-crash-1"}
    assert lab.published("dead-letter") == dict.fromkeys(letters, 1)
    assert "DOE" not in str(letters)
    assert lab.left() == 0


def test_a_job_over_its_deadline_is_ended_and_its_objects_are_found(lab: WorkerLab):
    lab.scan("hang-1", "once-hang-1")
    worker = lab.thread(deadline_s=0.3, max_attempts=2)
    lab.finished("hang-1", "once-hang-1")
    assert worker.end() == 0
    assert {slide: letter.code for slide, letter in lab.letters().items()} == {"hang-1": "job-deadline"}
    assert lab.calls("hang-1") == 2
    assert lab.calls("once-hang-1") == 1
    assert lab.drafts() == {"once-hang-1"}


def test_a_job_over_its_memory_limit_becomes_a_letter_that_names_the_setting(lab: WorkerLab):
    """Twice, for the first try may have been in a process that others had left full; then no more."""
    lab.scan("greedy-1", "ok-1", "refused-1", "ok-2")
    worker = lab.thread(memory_bytes=float(500 << 20), max_attempts=5)
    lab.finished("greedy-1", "ok-1", "refused-1", "ok-2")
    assert worker.end() == 0
    letters = lab.letters()
    assert {slide: (letter.code, letter.attempts) for slide, letter in letters.items()} == {
        "greedy-1": ("job-memory", 2),
        "refused-1": ("job-memory", 2),
    }
    assert "HISTGEN_MEMORY_BYTES" in letters["greedy-1"].hint
    assert lab.calls("greedy-1") == 2
    assert lab.drafts() == {"ok-1", "ok-2"}
    assert lab.left() == 0


def test_memory_that_an_earlier_job_left_behind_ends_no_other_slide(lab: WorkerLab):
    """Each leaves 300 MiB behind; two of them are too much for one process, not for two."""
    slides = [f"hoard-{number}" for number in range(4)]
    lab.scan(*slides)
    worker = lab.thread(memory_bytes=float(500 << 20))
    lab.finished(*slides)
    assert worker.end() == 0
    assert lab.letters() == {}
    assert lab.drafts() == set(slides)


def test_a_process_over_its_memory_limit_before_its_first_job_is_a_fatal_error(lab: WorkerLab):
    lab.scan("ok-1")
    assert lab.thread(memory_bytes=float(1 << 20)).wait() == 78
    assert lab.letters() == {}
    assert lab.left() == 1


def test_a_slide_that_does_not_open_in_time_becomes_a_letter_long_before_the_deadline(lab: WorkerLab):
    lab.scan("unopened-1", "ok-1")
    worker = lab.thread(opening_s=0.3, deadline_s=3600.0)
    lab.finished("unopened-1", "ok-1")
    assert worker.end() == 0
    (letter,) = lab.letters().values()
    assert (letter.code, letter.attempts) == ("slide-open-slow", 2)
    assert "HISTGEN_SLIDE_OPEN_S" in letter.hint
    assert lab.drafts() == {"ok-1"}


def test_twelve_duplicates_give_one_object_and_are_all_committed(lab: WorkerLab):
    lab.scan("ok-1", times=12)
    worker = lab.thread()
    until(lambda: lab.published("report.drafted")["ok-1"] == 12, 60, "twelve announcements")
    assert worker.end() == 0
    assert lab.calls("ok-1") == 1
    assert lab.left() == 0


def test_an_outage_is_waited_out_and_costs_no_attempt(lab: WorkerLab):
    (lab.folder / "away").touch()
    lab.scan("away-1", "ok-1")
    worker = lab.thread(max_attempts=2)
    until(lambda: lab.calls("away-1") > 20, 60, "tries")
    assert page(f"{worker.url}/readyz")[0] == 503
    assert page(f"{worker.url}/healthz")[0] == 200
    (lab.folder / "away").unlink()
    lab.finished("away-1", "ok-1")
    assert worker.end() == 0
    assert lab.letters() == {}
    assert lab.attempts("away-1") == 0


def test_others_pass_a_slide_whose_share_is_away_until_it_is_back(lab: WorkerLab):
    (lab.folder / "share").touch()
    good = [f"ok-{number}" for number in range(10)]
    lab.scan("share-1", "share-2", *good)
    worker = lab.thread()
    lab.finished(*good)
    until(lambda: aside(worker.url) == {"slide-away": 2}, 60, "both to be aside")
    (lab.folder / "share").unlink()
    lab.finished("share-1", "share-2")
    assert worker.end() == 0
    assert lab.drafts() == {"share-1", "share-2", *good}
    assert lab.letters() == {}
    assert lab.left() == 0
    assert list(lab.store.list("attempts/")) == []


def aside(url: str) -> dict[str, int]:
    return page(f"{url}/status")[1]["set_aside"]["codes"]


def test_few_records_are_tried_while_a_server_that_all_need_is_away(lab: WorkerLab):
    """Hundreds, one after the other and again, would be work for nothing."""
    (lab.folder / "away").touch()
    slides = [f"away-{number}" for number in range(30)]
    lab.scan(*slides)
    worker = lab.thread()
    until(lambda: sum(map(lab.calls, slides)) > 40, 60, "tries")
    tried = sum(lab.calls(slide) > 0 for slide in slides)
    assert tried <= 2 + sum(map(lab.calls, slides)) // 7
    (lab.folder / "away").unlink()
    lab.finished(*slides)
    assert worker.end() == 0
    assert lab.letters() == {}


def test_records_that_were_set_aside_go_to_another_worker_when_theirs_is_gone(lab: WorkerLab):
    (lab.folder / "share").touch()
    lab.scan("share-1", "ok-1")
    first = lab.process()
    lab.finished("ok-1")
    first.kill()
    (lab.folder / "share").unlink()
    second = lab.thread()
    lab.finished("share-1")
    assert second.end() == 0
    assert lab.drafts() == {"share-1", "ok-1"}
    assert lab.calls("ok-1") == 1
    assert lab.left() == 0


def test_a_job_longer_than_the_session_is_delivered_once(lab: WorkerLab):
    """Two members; the one that works stays a member for several sessions."""
    lab.scan("held-1")
    workers = [lab.process(session_s=1.0), lab.process(session_s=1.0)]
    until(lambda: lab.calls("held-1") == 1, 60, "the job's begin")
    lab.scan(*(f"ok-{number}" for number in range(8)))
    urls = [worker.url for worker in workers]
    until(lambda: max(map(_seconds, urls)) > 3.5, 60, "three sessions to pass")
    lab.let_go("held-1")
    lab.finished("held-1", *(f"ok-{number}" for number in range(8)))
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert lab.calls("held-1") == 1
    assert lab.published("report.drafted")["held-1"] == 1


def _seconds(url: str) -> float:
    flight = page(f"{url}/status")[1]["in_flight"]
    return flight["seconds"] if flight else 0.0


def test_a_record_that_is_no_event_is_refused_and_the_next_one_done(lab: WorkerLab):
    lab.scan_raw(b'{"patient": "DOE^JANE"}')
    lab.scan("ok-1")
    worker = lab.thread()
    lab.finished("ok-1")
    until(lambda: lab.left() == 0, 60, "the end")
    assert worker.end() == 0
    (letter,) = lab.letters().values()
    assert (letter.code, letter.event) == ("event-type", None)
    assert "DOE" not in str(letter)


def test_a_fatal_error_of_one_slide_alone_ends_that_slide_and_not_the_worker(lab: WorkerLab):
    lab.scan("fatal-1", "ok-1")
    worker = lab.thread(max_attempts=2)
    lab.finished("fatal-1", "ok-1")
    assert worker.end() == 0
    letter = lab.letters()["fatal-1"]
    assert (letter.code, letter.attempts) == ("model-missing", 2)
    assert lab.drafts() == {"ok-1"}


def test_a_fatal_error_of_the_installation_ends_the_worker_with_its_code_and_the_event_uncommitted(
    lab: WorkerLab,
):
    """It goes wrong while a job is in hand; the handler cannot be made anew."""
    lab.scan("held-1", "ok-1")
    worker = lab.thread(max_attempts=3)
    until(lambda: lab.calls("held-1"), 60, "the job's begin")
    (lab.folder / "setup").write_text("fatal")
    os.kill(int((lab.folder / "calls" / "held-1").read_text().split()[-1]), signal.SIGKILL)
    assert worker.wait() == 78
    assert lab.left() == 2
    assert lab.letters() == {}
    assert lab.drafts() == set()


def test_an_outcome_too_large_for_an_event_ends_that_slide_and_not_the_worker(lab: WorkerLab):
    """Its objects exist: a job that finds them fails as the first did, also after a restart."""
    lab.scan("big-1", "ok-1")
    worker = lab.thread()
    lab.finished("big-1", "ok-1")
    assert worker.end() == 0
    assert lab.letters()["big-1"].code == "event-too-large"
    assert lab.published("report.drafted") == {"ok-1": 1}
    lab.scan("big-1", "ok-2")
    worker = lab.thread()
    lab.finished("ok-2")
    assert worker.end() == 0
    assert lab.left() == 0
    assert lab.calls("big-1") == 1
    assert lab.published("dead-letter") == {"big-1": 2}

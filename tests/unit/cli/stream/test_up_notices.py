"""`histgen up` reports ends and failures in one line each, and none of them ends it."""

from __future__ import annotations

import errno
import io
import os

import pytest
from rich.console import Console

from histgen_lib.cli.stream.up import _retried, duration, notice_printer
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.stack.local import Notice


class Paper(io.StringIO):
    """What is printed on; it may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.fixture
def paper():
    return Paper()


@pytest.fixture
def tell(paper):
    return notice_printer(Console(file=paper, width=40))


ENDED = Notice("tiler", "restarting", last="The tiler was ended by SIGKILL.")
TROUBLE = "The disk of /home is full: free space on it. [disk-full]"


def test_an_end_is_reported_with_its_reason(tell, paper):
    tell(ENDED)

    assert paper.getvalue() == "tiler is being restarted: The tiler was ended by SIGKILL.\n"


def test_trouble_is_one_line_and_later_says_for_how_long(tell, paper):
    tell(Notice("tiler", "restarting", 0.0, TROUBLE, reported_at=1.0))
    tell(Notice("tiler", "running", 20.0, TROUBLE, reported_at=1.0))  # it has changed, and not got well
    tell(Notice("tiler", "restarting", 190.0, TROUBLE, reported_at=2.0))
    tell(Notice("tiler", "running"))

    assert paper.getvalue().splitlines() == [
        f"tiler keeps failing: {TROUBLE} It is retried until it works.",
        f"tiler keeps failing for 3 min: {TROUBLE} It is retried until it works.",
        "tiler has recovered.",
    ]


def test_systemd_gets_the_same_line(paper):
    statuses: list[str] = []
    notice_printer(Console(file=paper), statuses.append)(ENDED)

    assert statuses == ["STATUS=tiler is being restarted: The tiler was ended by SIGKILL."]


def test_a_full_disk_under_the_output_ends_nothing(tell, paper):
    paper.full = True
    tell(ENDED)
    paper.full = False
    tell(Notice("reporter", "restarting", last="The reporter ended with exit code 1."))

    assert paper.getvalue().endswith("reporter is being restarted: The reporter ended with exit code 1.\n")


def test_a_failed_poll_is_retried(monkeypatch):
    monkeypatch.setattr("histgen_lib.cli.stream.up._PAUSE_S", 0.01)
    failures = [RuntimeError("can't start new thread"), OSError(errno.EIO, "x"), MemoryError()]

    def look() -> str:
        if failures:
            raise failures.pop(0)
        return "seen"

    assert _retried(look, Stop()) == "seen"


def test_a_stop_ends_failing_polls():
    stop = Stop()
    stop.request()
    with pytest.raises(Stopped):
        _retried(lambda: 1 / 0, stop)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (59, "59 s"), (61, "1 min"), (7199, "119 min"), (7260, "2 h 1 min")]
)
def test_durations_are_written_in_words(seconds, words):
    assert duration(seconds) == words

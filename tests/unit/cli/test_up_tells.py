"""What `histgen up` says of what ends and fails: one line each, and never the end of `histgen up` itself."""

from __future__ import annotations

import errno
import io
import os

import pytest
from rich.console import Console

from histgen_lib.cli.up import _insisted, duration, teller
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.stack.local import News


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
    return teller(Console(file=paper, width=40))


ENDED = News("tiler", "restarting", last="The tiler was ended by SIGKILL.")
TROUBLE = "The disk of /home is full: free space on it. [disk-full]"


def test_an_end_is_told_with_its_reason(tell, paper):
    tell(ENDED)

    assert paper.getvalue() == "tiler is started again: The tiler was ended by SIGKILL.\n"


def test_trouble_is_one_line_with_what_lacks_and_the_second_time_with_how_long(tell, paper):
    tell(News("tiler", "restarting", 0.0, TROUBLE, said_at=1.0))
    tell(News("tiler", "running", 20.0, TROUBLE, said_at=1.0))  # it has changed, and not got well
    tell(News("tiler", "restarting", 190.0, TROUBLE, said_at=2.0))
    tell(News("tiler", "running"))

    assert paper.getvalue().splitlines() == [
        f"tiler keeps failing: {TROUBLE} It is tried for as long as it takes.",
        f"tiler keeps failing for 3 min: {TROUBLE} It is tried for as long as it takes.",
        "tiler is well again.",
    ]


def test_systemd_gets_the_same_line(paper):
    said: list[str] = []
    teller(Console(file=paper), said.append)(ENDED)

    assert said == ["STATUS=tiler is started again: The tiler was ended by SIGKILL."]


def test_a_paper_that_is_full_ends_nothing_and_takes_what_is_said_later(tell, paper):
    paper.full = True
    tell(ENDED)
    paper.full = False
    tell(News("reporter", "restarting", last="The reporter ended with exit code 1."))

    assert paper.getvalue().endswith("reporter is started again: The reporter ended with exit code 1.\n")


def test_a_look_that_fails_is_taken_again(monkeypatch):
    monkeypatch.setattr("histgen_lib.cli.up._PAUSE_S", 0.01)
    failures = [RuntimeError("can't start new thread"), OSError(errno.EIO, "x"), MemoryError()]

    def look() -> str:
        if failures:
            raise failures.pop(0)
        return "seen"

    assert _insisted(look, Stop()) == "seen"


def test_a_stop_ends_looks_that_fail():
    stop = Stop()
    stop.request()
    with pytest.raises(Stopped):
        _insisted(lambda: 1 / 0, stop)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (59, "59 s"), (61, "1 min"), (7199, "119 min"), (7260, "2 h 1 min")]
)
def test_how_long_something_lasts_is_said_in_words(seconds, words):
    assert duration(seconds) == words

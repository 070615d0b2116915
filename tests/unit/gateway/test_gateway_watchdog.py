"""A file that does not answer holds up only requests for it, and only for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_fakes import GatewayLab, context, keys_of, running
from waiting import until

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import PROGRESS
from histgen_lib.runtime.stopping import Stop
from services.gateway import contents, folder
from services.gateway.contents import Contents
from services.gateway.folder import Folder
from services.gateway.submission import Submission
from services.gateway.watchdog import MOST_IN_FOLDER, Watchdog
from services.gateway.watching import Watching

HUNG, TIMEOUT = Path("/share/a.svs"), "slide-open-timeout"


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Release what hangs; it is released at the end of the test in any case."""
    event = threading.Event()
    yield event
    event.set()


@contextmanager
def _watching(lab: GatewayLab, still_s: float) -> Iterator[Watching]:
    stop = Stop()
    loop = Watching(
        context(stop), Folder(lab.folder), lab.intake, settle_s=0.05, look_s=0.01, still_s=still_s
    )
    with running(loop, stop):
        yield loop


def _refused(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInputError) as caught:
        call()
    return caught.value.code


def test_a_look_that_hangs_is_abandoned_until_it_comes_back(go_on):
    watchdog = Watchdog(still_s=0.3)
    assert _refused(lambda: watchdog.look(HUNG, go_on.wait)) == TIMEOUT
    assert watchdog.stuck == 1
    assert _refused(lambda: watchdog.look(HUNG, lambda: 1 / 0)) == TIMEOUT, "nobody looks there"
    assert watchdog.look(Path("/other.svs"), lambda: 7) == 7
    go_on.set()
    until(lambda: watchdog.stuck == 0, 60, "it comes back")
    assert watchdog.look(HUNG, lambda: 8) == 8


def test_a_look_that_makes_progress_is_waited_for(go_on):
    beats = []

    def reads_slowly() -> str:
        while len(beats) < 40:
            beats.append(PROGRESS.get()())
            go_on.wait(0.1)
        return "read"

    assert Watchdog(still_s=2.0).look(HUNG, reads_slowly) == "read"


def test_errors_are_passed_on_unchanged():
    def fails() -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        Watchdog().look(HUNG, fails)


@pytest.mark.parametrize(("most", "folder"), [(2, "other"), (100, "share")])
def test_abandoned_looks_are_limited_in_all_and_in_one_folder(go_on, most, folder):
    watchdog = Watchdog(still_s=0.2, most_stuck=most)
    for name in range(min(most, MOST_IN_FOLDER)):
        assert _refused(lambda name=name: watchdog.look(HUNG.with_name(str(name)), go_on.wait)) == TIMEOUT
    assert _refused(lambda: watchdog.look(Path(f"/{folder}/c"), lambda: 1)) == TIMEOUT
    if most > MOST_IN_FOLDER:
        assert watchdog.look(Path("/elsewhere/c"), lambda: 1, still_s=60) == 1
    go_on.set()
    until(lambda: watchdog.stuck == 0, 60, "they come back")
    assert watchdog.look(Path(f"/{folder}/c"), lambda: 1, still_s=60) == 1


def test_a_reader_that_stands_still_gives_up_its_slot(go_on):
    watchdog, slots = Watchdog(still_s=600), threading.Semaphore(1)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(watchdog.look, HUNG, go_on.wait, slots)
        assert pool.submit(watchdog.look, Path("b"), lambda: 2, slots).result(60) == 2
        go_on.set()
        assert held.result(60)
    assert slots.acquire(blocking=False)
    assert not slots.acquire(blocking=False), "given back once"


@pytest.mark.parametrize("where", ["admit", "stored_in", "content_id_of", "states"])
def test_a_slide_that_hangs_wherever_it_is_touched_is_refused_in_time(
    lab: GatewayLab, monkeypatch, go_on, where
):
    lab.intake.contents = Contents(contents.Roots((lab.folder,)), None, Watchdog(still_s=1.5))
    hung, other = lab.file("hung.svs", "h"), lab.file("b.svs", "b")
    real = getattr(contents, where)

    def hangs(what, *more):
        if "hung.svs" in str(what):
            go_on.wait()
        return real(what, *more)

    monkeypatch.setattr(contents, where, hangs)
    assert _refused(lambda: lab.submit(hung)) == TIMEOUT
    assert lab.submit(other).status == "accepted"
    go_on.set()
    until(lambda: lab.intake.contents._watchdog.stuck == 0, 60, "it comes back")
    assert lab.submit(hung).status == "accepted"


def test_the_old_place_of_a_slide_may_hang(lab: GatewayLab, monkeypatch, go_on):
    lab.intake.contents = Contents(contents.Roots((lab.folder,)), None, Watchdog(still_s=1.5))
    first, moved = lab.file("one/a.svs", "a"), lab.file("two/a.svs", "a")
    lab.submit(first)
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: go_on.wait() if path == first else real(path))
    assert lab.submit(moved).status == "duplicate"


@pytest.mark.parametrize(
    ("called", "hung"), [("_is_file", "b.svs"), ("_state", "b.svs"), ("_entries", "sub")]
)
def test_a_scan_leaves_out_a_place_that_hangs_and_returns_to_it(
    lab: GatewayLab, monkeypatch, go_on, called, hung
):
    for name in ("a.svs", "b.svs", "sub/c.svs", "z.svs"):
        lab.file(name, name)
    real = getattr(folder, called)

    def hangs(entry):
        if entry.name == hung:
            go_on.wait()
        return real(entry)

    monkeypatch.setattr(folder, called, hangs)
    there = {"a", "b", "c", "z"}
    with _watching(lab, still_s=0.3):
        until(lambda: len(keys_of(lab)) == 3, 60, "the others are announced")
        assert set(keys_of(lab)) == there - {"b" if hung == "b.svs" else "c"}
        go_on.set()
        until(lambda: set(keys_of(lab)) == there, 60, "it is announced, too")


def test_a_watched_folder_that_hangs_is_reported_and_waited_for(lab: GatewayLab, monkeypatch, go_on):
    lab.file("a.svs", "a")
    real = folder._entries
    monkeypatch.setattr(folder, "_entries", lambda path: (go_on.wait(), real(path))[1])
    with _watching(lab, still_s=0.1) as loop:
        until(lambda: loop._board.missing.get("watch") == "watch-unavailable", 60, "it is missed")
        go_on.set()
        until(lambda: keys_of(lab) == ["a"], 60, "its slide is announced")
        until(lambda: "watch" not in loop._board.missing, 60, "nothing is missed")


def test_reading_a_slide_releases_its_slot(lab: GatewayLab):
    slots = threading.Semaphore(1)
    path = lab.file("a.svs", "a")
    assert lab.intake.submit(Submission(contents.FilePlace(path), "http"), slots).status == "accepted"
    assert slots.acquire(blocking=False)

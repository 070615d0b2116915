"""A slide is complete when all its files exist and have stayed unchanged for a while, not before."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.folder import Candidate, Look
from services.gateway.watching import Tracker

A = Path("/scans/a.svs")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _tracker(clock: Clock, settle_s: float = 5.0, done: tuple[str, ...] = ()) -> Tracker:
    return Tracker(settle_s=settle_s, clock=clock, done=done)


def _slide(size: int = 1, mtime: int = 1, path: Path = A, missing: tuple[str, ...] = ()) -> Candidate:
    return Candidate(path, ((path.name, size, mtime),), missing)


def _whole(tracker: Tracker, *slides: Candidate) -> list[Candidate]:
    return [candidate for candidate, _ in tracker.complete(Look(list(slides)))]


def test_an_old_file_found_at_the_start_must_settle_as_well():
    clock = Clock()
    tracker = _tracker(clock)
    assert _whole(tracker, _slide()) == []
    clock.now += 4.9
    assert _whole(tracker, _slide()) == []
    clock.now += 0.1
    assert _whole(tracker, _slide()) == [_slide()]


def test_a_change_of_size_or_time_restarts_the_wait():
    clock = Clock()
    tracker = _tracker(clock)
    for state in ({"size": 1}, {"size": 2}, {"size": 2, "mtime": 2}):
        assert _whole(tracker, _slide(**state)) == []
        clock.now += 4.0
        assert _whole(tracker, _slide(**state)) == []
    clock.now += 1.0
    assert len(_whole(tracker, _slide(size=2, mtime=2))) == 1


@given(
    st.lists(
        st.tuples(st.floats(0.1, 20.0), st.integers(1, 3), st.integers(1, 2), st.booleans()), max_size=40
    )
)
def test_a_file_is_complete_only_after_it_stayed_unchanged(looks):
    """Random pauses, sizes and modification times, and files that vanish and return."""
    clock, settle_s = Clock(), 5.0
    tracker = _tracker(clock, settle_s)
    since: dict[tuple[int, int], float] = {}
    for wait, size, mtime, there in looks:
        clock.now += wait
        state = (size, mtime)
        since = {state: since.get(state, clock.now)} if there else {}
        found = tracker.complete(Look([_slide(size, mtime)] if there else []))
        assert bool(found) == (there and clock.now - since[state] >= settle_s)


def test_a_slide_with_missing_files_is_never_complete_and_reported_once():
    clock = Clock()
    tracker = _tracker(clock)
    waiting = _slide(missing=("Data0.dat",))
    assert _whole(tracker, waiting) == []
    assert tracker.incomplete() == []
    clock.now += 100
    assert _whole(tracker, waiting) == []
    assert tracker.incomplete() == [waiting]
    assert tracker.incomplete() == []


def test_a_slide_that_was_dealt_with_is_not_returned_until_it_changes():
    clock = Clock()
    tracker = _tracker(clock)
    tracker.complete(Look([_slide()]))
    clock.now += 5
    ((_, mark),) = tracker.complete(Look([_slide()]))
    tracker.finish(mark)
    clock.now += 100
    assert _whole(tracker, _slide()) == []
    assert tracker.waiting == 0
    assert _whole(tracker, _slide(size=2)) == []
    clock.now += 5
    assert len(_whole(tracker, _slide(size=2))) == 1


def test_a_slide_dealt_with_before_a_restart_is_not_returned_again():
    clock = Clock()
    tracker = _tracker(clock)
    tracker.complete(Look([_slide()]))
    clock.now += 5
    ((_, mark),) = tracker.complete(Look([_slide()]))
    again = _tracker(clock, done=(mark,))
    again.complete(Look([_slide()]))
    clock.now += 100
    assert _whole(again, _slide()) == []


def test_a_share_that_went_away_and_came_back_is_not_read_again():
    clock = Clock()
    tracker = _tracker(clock)
    tracker.complete(Look([_slide()]))
    clock.now += 5
    tracker.finish(tracker.complete(Look([_slide()]))[0][1])
    assert _whole(tracker) == []
    assert _whole(tracker, _slide()) == []
    clock.now += 100
    assert _whole(tracker, _slide()) == []


def test_a_problem_is_news_once_and_retried_after_longer_and_longer_delays():
    clock = Clock()
    tracker = _tracker(clock)
    tracker.complete(Look([_slide()]))
    clock.now += 5
    waits, news = [], []
    for _ in range(9):
        ((candidate, _mark),) = tracker.complete(Look([_slide()]))
        news.append(tracker.postpone(candidate, "slide-unreadable"))
        before = clock.now
        while not tracker.complete(Look([_slide()])):
            clock.now += 0.5
        waits.append(clock.now - before)
    assert news == [True, *[False] * 8]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_longest_waiting_comes_first():
    clock = Clock()
    tracker = _tracker(clock)
    late = _slide(path=Path("/scans/0.svs"))
    tracker.complete(Look([_slide()]))
    clock.now += 1
    tracker.complete(Look([late, _slide()]))
    clock.now += 10
    assert _whole(tracker, late, _slide()) == [_slide(), late]


def test_unreadable_slides_do_not_come_before_new_ones():
    """Each may take seconds to fail: a hundred of them would hold up all others forever."""
    clock = Clock()
    tracker = _tracker(clock, settle_s=1.0)
    held = [_slide(path=Path(f"/scans/held-{number}.svs")) for number in range(3)]
    _whole(tracker, *held)
    clock.now += 1.0
    for candidate in _whole(tracker, *held):
        tracker.postpone(candidate, "slide-open-timeout")
    clock.now += 100.0
    _whole(tracker, *held, _slide())
    clock.now += 1.0
    assert _whole(tracker, *held, _slide())[0] == _slide()

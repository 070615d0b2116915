"""What a demo counts, which slides it takes, and when it gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.catalogue.states import DraftFacts, SlideState
from histgen_lib.cli.output import Failure
from histgen_lib.cli.stream.demo import _chosen, _Watchdog
from histgen_lib.cli.stream.demo_results import DemoSlide, Result, Summary, Truth
from histgen_lib.client.api import InFlight, WorkerState
from histgen_lib.client.following import EndedSlide, Snapshot
from histgen_lib.errors import TransientError

TRUTH = Truth("Colon:\n  Adenoma", {"diagnosis": "Adenoma", "grade": "1"})
DRAFT = DraftFacts("k/draft.json", "Colon:", False, False, 0.9, {"diagnosis": "Adenoma", "grade": "2"}, ())
BUSY = WorkerState("tiler", 1, "http://x", answers=True, in_flight=InFlight("a", "e", 1, "encode", 1, 2, 0.5))
IDLE = Snapshot((), ())


class Clock:
    """Seconds that pass when a test sets them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_demo_gives_up_after_minutes_in_which_nothing_happens():
    clock = Clock()
    watchdog = _Watchdog(clock)
    clock.seconds = 170.0
    watchdog.check(IDLE, {"a"})
    watchdog.check(Snapshot((), (BUSY,)), {"a"})  # something happens: the time counts from here
    clock.seconds = 350.0
    watchdog.check(IDLE, {"a", "b"})
    clock.seconds = 350.1

    with pytest.raises(TransientError, match="these slides have not ended: a, b") as stuck:
        watchdog.check(IDLE, {"a", "b"})
    assert stuck.value.code == "demo-stuck"


def test_right_fields_are_counted_only_where_the_truth_is_known():
    drawn = Result(DemoSlide(Path("a.tif"), "a", TRUTH), 3.0, DRAFT, "page", None)
    chosen = Result(DemoSlide(Path("b.svs"), "b"), 3.0, DRAFT, "page", None)
    lost = Result(DemoSlide(Path("c.tif"), "c", TRUTH), 3.0, None, None, Failure("c", "m", "h", 65))

    assert [(one.right, one.fields) for one in (drawn, chosen, lost)] == [(1, 2), (0, 0), (0, 2)]
    assert lost.to_dict()["error"] == {"code": "c", "message": "m", "hint": "h"}
    assert (chosen.to_dict()["report"], lost.to_dict()["draft"]) == (None, None)


def test_the_summary_times_drafts_and_counts_all_ends():
    ends = [
        EndedSlide(SlideState(name, "drafted", draft=DRAFT), seconds)
        for name, seconds in (("a", 2), ("b", 4))
    ]
    summary = Summary.of(
        [*ends, EndedSlide(SlideState("c", "dead-letter"), 9.0)], seconds=30.0, ready_s=5.04, home="h"
    )

    assert (summary.drafts, summary.dead_letters, summary.slides_per_minute) == (2, 1, 6.0)
    assert (summary.scan_to_draft_p50_s, summary.scan_to_draft_max_s, summary.ready_seconds) == (3, 4, 5.0)
    assert Summary.of([], seconds=1.0, ready_s=1.0, home="h").scan_to_draft_p50_s is None


def test_slides_of_one_name_or_of_the_same_bytes_are_taken_once(tmp_path, capsys):
    for name, data in (
        ("a.svs", b"1"),
        ("b.svs", b"1"),
        ("c.svs", b"2"),
        ("sub/c.svs", b"3"),
        ("notes.txt", b""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)

    assert [slide.slide_id for slide in _chosen([str(tmp_path)])] == ["a", "c"]
    assert capsys.readouterr().err.count("has the same name or content") == 2

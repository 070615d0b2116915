"""The board shows what a service does, what it lacks, and whether its loops still turn."""

from __future__ import annotations

from datetime import UTC, datetime

from histgen_lib.events import Event, SlideScanned
from histgen_lib.runtime.board import Board, WebBoard
from histgen_lib.telemetry import metrics

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EVENT = Event.first(
    SlideScanned("S1", "file:///S1.svs", "c" * 64, 10), source="/histgen/test", now=NOW, identity="S1"
)


def test_liveness_follows_the_main_loop():
    now = [0.0]
    board = Board("b", clock=lambda: now[0])
    board.turn()
    assert board.live()
    now[0] = 31.0
    assert not board.live()
    board.turn()
    assert board.live()


def test_one_loop_that_is_stuck_makes_the_service_not_live():
    now = [0.0]
    board = Board("b", clock=lambda: now[0])
    board.turn("watch")
    now[0] = 31.0
    board.turn()
    assert not board.live()
    board.turn("watch")
    assert board.live()


def test_the_board_shows_the_job_in_hand_and_its_slides_age():
    board = Board("b", now=lambda: NOW)
    board.take(EVENT)
    board.begin_attempt(2)
    board.progress("encode", 3, 9)
    shown = board.status()["in_flight"]
    assert (shown["slide_id"], shown["stage"], shown["done"], shown["total"]) == ("S1", "encode", 3, 9)
    assert shown["attempt"] == 2
    assert board.oldest_s() == 0
    board.drop()
    assert board.status()["in_flight"] is None


def test_a_web_service_shows_how_many_requests_are_in_hand():
    board = WebBoard("web")
    board.hold(3)
    assert board.status()["requests"] == 3


def up(dependency: str) -> float | None:
    labels = {"worker": "needy", "dependency": dependency}
    return metrics.REGISTRY.get_sample_value("histgen_dependency_up", labels)


def test_what_a_service_needs_is_shown_as_up_or_down():
    board = Board("needy")
    assert (up("broker"), up("process"), up("store")) == (0, 0, None)
    board.has("broker")
    board.has("store")
    assert (up("broker"), up("store")) == (1, 1)
    board.lacks("store", "storage-unavailable")
    assert (up("broker"), up("store")) == (1, 0)

"""How the stream is shown to a person."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.states import DraftFacts, SlideState
from histgen_lib.cli.output import number_of
from histgen_lib.cli.stream.view import (
    LiveView,
    ending,
    place_of,
    print_ended,
    slide_json,
    slides_table,
)
from histgen_lib.client.api import InFlight, WorkerState
from histgen_lib.client.following import EndedSlide, Snapshot
from histgen_lib.events import Event, SlideScanned
from histgen_lib.storage import StorageSettings, open_store

LETTER = DeadLetter("e", "slide-damaged", "The slide is damaged.", "Copy it again.", 1, "tiler")


def drafted(*, foreign: bool = False, abstained: bool = False) -> SlideState:
    facts = DraftFacts(
        "reports/a/d/draft.json", "Colon:", abstained, foreign, 0.9, {"diagnosis": "Adenoma"}, ()
    )
    return SlideState("a", "drafted", draft=facts)


def shown(renderable) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(renderable)
    return file.getvalue()


def worker(**values) -> WorkerState:
    return WorkerState("tiler", 7, "http://127.0.0.1:1", **{"answers": True, "phase": "idle", **values})


def test_a_draft_that_must_not_be_used_does_not_show_its_diagnosis():
    assert "Adenoma" not in ending(drafted(foreign=True, abstained=True)).plain
    assert ending(drafted(abstained=True)).plain == "Adenoma (the model abstains)"
    assert ending(drafted()).plain == "Adenoma"


def test_a_dead_letter_shows_its_code_and_message():
    assert (
        ending(SlideState("b", "dead-letter", letter=LETTER)).plain == "slide-damaged: The slide is damaged."
    )


def test_the_live_view_shows_jobs_in_progress():
    flight = InFlight("a", "e", 2, "encode", 32, 55, 3.4)
    snapshot = Snapshot((SlideState("a", "scanned"), SlideState("c", "scanned")), (worker(in_flight=flight),))
    text = shown(LiveView(["Gateway  x"]).render(snapshot, [("kafka", "restarting")]))

    assert "a: encoding tiles, 3 s, attempt 2" in text
    assert "32/55 tiles" in text
    assert "1 waiting · 1 in progress · 0 drafted · 0 dead letters" in text
    assert "kafka" in text
    assert "in progress" in shown(slides_table(snapshot, snapshot.slides))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (worker(), "ready"),
        (worker(missing={"broker": "bus-unavailable"}), "waiting for broker (bus-unavailable)"),
        (worker(answers=False), "does not answer"),
        (
            worker(missing={"job": "full"}, in_flight=InFlight("a", "e", 1, "store", 0, 0, 9.0)),
            "a: starting, 9 s; waiting for job (full)",
        ),
    ],
)
def test_the_live_view_shows_what_a_service_lacks(state, words):
    assert words in shown(LiveView().render(Snapshot((), (state,))))


def test_an_end_names_the_copies_of_its_slide():
    end = EndedSlide(replace(drafted(), copies=("b", "c")), 1.5)
    file = io.StringIO()
    print_ended(Console(file=file, width=100), end)

    assert "drafted a after 1.5 s (copies: b, c): Adenoma" in file.getvalue()
    assert "a 1.5 s (copies: b, c)  Adenoma" in shown(LiveView().render(Snapshot((), (), (end,))))


@pytest.mark.parametrize(("count", "words"), [(0, "0 bags"), (1, "1 bag"), (2000, "2,000 bags")])
def test_one_thing_is_written_as_one(count, words):
    assert number_of(count, "bag") == words


def test_the_last_ends_stay_visible():
    view = LiveView()
    ends = tuple(EndedSlide(SlideState(f"s{n}", "dead-letter", letter=LETTER), 1.5) for n in range(20))
    view.render(Snapshot((), (), ends))
    text = shown(view.render(Snapshot((), (), away="storage-unavailable")))

    assert "s19 1.5 s" in text
    assert "s0 " not in text
    assert "the store does not answer \n(storage-unavailable)" in text


def test_json_holds_what_a_person_sees(tmp_path):
    store = open_store(StorageSettings(f"file:{tmp_path}"))
    scanned = SlideScanned("a", "file:///a.svs", "0" * 64, 1)
    event = Event.first(scanned, source="/lab", now=datetime(2026, 1, 1, tzinfo=UTC), identity="a")
    document = slide_json(SlideState("a", "scanned", event), store)

    assert (document["scanned_at"], document["trace_id"]) == (event.scanned_at.isoformat(), event.trace_id)


def test_a_file_is_shown_as_a_path_and_an_object_as_a_uri(tmp_path):
    (tmp_path / "ö b").mkdir()
    store = open_store(StorageSettings(f"file:{tmp_path / 'ö b'}"))

    assert place_of(store, "x/y.html") == f"{tmp_path}/ö b/x/y.html"


@pytest.mark.parametrize("missing", [{}, {"broker": "bus-unavailable"}])
def test_slides_set_aside_are_shown_with_the_reason(missing):
    snapshot = Snapshot((), (worker(set_aside={"slide-away": 2, "job-crashed": 1}, missing=missing),))
    text = shown(LiveView(["Gateway  x"]).render(snapshot, []))

    assert "2 set aside (slide-away), 1 set aside (job-crashed)" in text
    assert ("waiting for broker (bus-unavailable); 2" in text) == bool(missing)

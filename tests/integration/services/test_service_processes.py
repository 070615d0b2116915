"""`python -m services.tiler` and `services.reporter` as a lab runs them: real processes, broker and store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_model
from job_kit import event_of, scanned
from running_services import MINUTES_S, Services
from waiting import until

from histgen_lib.catalogue.dead_letter import dead_letters
from histgen_lib.catalogue.overview import Overview


@pytest.fixture(scope="module")
def services(tmp_path_factory, model_dir) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"), model_dir)
    yield running
    running.kill()


def test_slides_go_in_and_drafts_cases_and_dead_letters_come_out(services):
    folder = services.folder
    slides = [tiny_model.write_slide(folder / f"{name}.tif", side_px=512) for name in ("good", "one", "two")]
    bad = folder / "bad.tif"
    bad.write_bytes(b"not a slide")
    case = {"case_id": "C-1", "case_slides": ("one", "two")}
    good, one, two = (scanned(path, **(case if path.stem != "good" else {})) for path in slides)
    by_hand = [
        replace(event_of(data), source=f"/scanner/{n}", id="17")
        for n, data in enumerate((good, scanned(bad)))
    ]
    services.publish(*by_hand, event_of(one), event_of(two))

    until(lambda: services.drafted("good"), MINUTES_S, "the slide's draft")
    until(lambda: services.drafted("C-1"), MINUTES_S, "the case's draft")
    (letter,) = until(lambda: list(dead_letters(services.store)), MINUTES_S, "a dead letter")

    assert (letter.code, letter.event.key, letter.worker) == ("slide-format-unknown", "bad", "tiler")
    assert not services.drafted("one")
    assert {slide.slide_id: slide.state for slide in Overview(services.store).slides()} == {
        "good": "drafted",
        "bad": "dead-letter",
        "one": "drafted",
        "two": "drafted",
    }
    assert services.get("tiler", "/readyz")
    assert 'histgen_jobs_total{outcome="done",worker="tiler"} 3.0' in services.get("tiler", "/metrics")
    assert "histgen_tiles_encoded_total" in services.get("tiler", "/metrics")
    counted = 'histgen_stage_seconds_count{stage="generate",worker="reporter"} 2.0'
    until(lambda: counted in services.get("reporter", "/metrics"), MINUTES_S, "both drafts to be counted")


def test_they_stop_cleanly_on_a_signal(services):
    assert services.stop() == [0, 0]
    assert list((services.folder / "run").glob("*.json")) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"HISTGEN_BUS": "nonsense"}, "settings-invalid"), ({"HISTGEN_MODEL": "/nowhere"}, "model-missing")],
)
def test_an_error_that_a_person_must_fix_ends_them_with_78_and_its_code(services, change, code):
    log = services.folder / "tiler.log"
    before = log.stat().st_size

    assert services.start("tiler", **change).wait(60) == 78
    assert code in log.read_text()[before:]

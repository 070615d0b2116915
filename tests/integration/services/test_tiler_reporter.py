"""Tiler and reporter over a store, with the model in process: the stream's drafts are the command line's."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path

import pytest
import tiny_model
from job_kit import NOW, JobLab, drafts_of, event_of, scanned
from planted_slide import leaks, write_planted_slide

from histgen_lib.access.places import Roots
from histgen_lib.access.scratch import Scratch
from histgen_lib.access.slide_files import SlideFiles
from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.events import BagReady, Event, ReportDrafted
from histgen_lib.inference import open_inference
from histgen_lib.pipeline import Drafter, report_slide
from histgen_lib.slides import open_slide
from histgen_lib.storage import open_store


@pytest.fixture
def lab(tmp_path, model_dir) -> JobLab:
    return JobLab.at(tmp_path, model_dir)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return tiny_model.write_slide(tmp_path_factory.mktemp("slides") / "A-1.tif", side_px=768)


def by_command_line(lab: JobLab, slide: Path, **options) -> Path:
    return report_slide(slide, lab.folder / "by-hand", Drafter(lab.model, lab.server), **options).folder


def files_of(lab: JobLab, drafted: Event) -> dict[str, bytes]:
    folder = drafted.data.draft_key.removesuffix("draft.json")
    return {key.removeprefix(folder): data for key, data in lab.store.contents(folder).items()}


@pytest.mark.parametrize("fields", [{}, {"mpp": 0.55}])
def test_the_streams_draft_is_that_of_the_command_line_byte_for_byte(lab, slide, fields):
    (drafted,) = drafts_of(lab, [event_of(scanned(slide, **fields))])
    stream, folder = files_of(lab, drafted), by_command_line(lab, slide, **fields)
    bag = next(info.key for info in lab.store.list("bags/") if info.key.endswith(".parquet"))

    for name in ("draft.json", "draft.txt", "draft.html"):
        assert stream[name] == (folder / name).read_bytes(), name
    assert lab.store.get(bag) == (folder / "bag.parquet").read_bytes()


def test_a_sidecars_scale_is_used_as_on_the_command_line(lab, tmp_path):
    slide = tiny_model.write_slide(tmp_path / "silent.tif", side_px=768, mpp=None)
    (tmp_path / "silent.tif.json").write_text('{"mpp": 0.45}')
    (drafted,) = drafts_of(lab, [event_of(scanned(slide))])

    assert files_of(lab, drafted)["draft.json"] == (by_command_line(lab, slide) / "draft.json").read_bytes()


def test_a_slide_in_a_bucket_gives_the_same_draft(lab, slide, moto_server, tmp_path):
    """Fetched once for both services; the copy has the slide's own name, so its id is the same."""
    bucket = moto_server.make_bucket()
    open_store(moto_server.settings(bucket)).put("2026/A-1.tif", slide)
    lab.files = SlideFiles(
        moto_server.settings(bucket),
        lambda: Scratch(tmp_path / "scratch", 1 << 30),
        roots=Roots(objects=(f"{bucket}/",)),
    )
    scan = scanned(slide, uri=f"s3://{bucket}/2026/A-1.tif")
    (drafted,) = drafts_of(lab, [event_of(scan)])

    assert files_of(lab, drafted)["draft.html"] == (by_command_line(lab, slide) / "draft.html").read_bytes()
    assert [path.name for path in (tmp_path / "scratch").glob("*/*")] == ["A-1.tif"]


@pytest.mark.parametrize("case", [{}, {"case_id": "C", "case_slides": ("B-1", "A-1")}])
def test_a_model_server_gives_the_same_draft(lab, slide, triton, case):
    """Several batches in flight, answers over the wire: the same bytes, of a slide and of a case."""
    other = tiny_model.write_slide(lab.folder / "B-1.tif", side_px=512, seed=4)
    events = [event_of(scanned(path, **case)) for path in (slide, other)]
    with closing(open_inference(triton.url, lab.model.folder.path)) as server:
        served = JobLab.at(lab.folder / "served", lab.model.folder.path, server)
        served.in_flight = 3
        drafts = [files_of(served, drafted) for drafted in drafts_of(served, events)]

    assert drafts == [files_of(lab, drafted) for drafted in drafts_of(lab, events)]
    assert len(drafts) == (1 if case else 2)


def test_events_follow_from_one_another_with_ids_that_follow_too(lab, slide):
    event = event_of(scanned(slide))
    first, again = (lab.tiler.handle(event, _quiet).events[0] for _ in range(2))
    (drafted,) = lab.reporter.handle(first, _quiet).events

    assert isinstance(first.data, BagReady)
    assert isinstance(drafted.data, ReportDrafted)
    assert (first.id, first.source) == (again.id, "/histgen/tiler")
    assert {event.trace_id, first.trace_id, drafted.trace_id} == {event.trace_id}
    assert drafted.scanned_at == event.scanned_at == NOW


def test_finished_work_is_found_without_opening_slides(lab, slide):
    event = event_of(scanned(slide))
    assert lab.tiler.find(event) is None
    bag = lab.tiler.handle(event, _quiet).events[0]
    assert lab.reporter.find(bag) is None
    following = lab.reporter.handle(bag, _quiet).events
    later = lab.without_slides()

    assert [(e.id, e.data) for e in later.tiler.find(event).events] == [(bag.id, bag.data)]
    assert [(e.id, e.data) for e in later.reporter.find(bag).events] == [(e.id, e.data) for e in following]


def test_racing_last_slides_of_a_case_publish_the_same_event(lab, tmp_path):
    slides = [tiny_model.write_slide(tmp_path / f"{n}.tif", side_px=512, seed=n) for n in (1, 2)]
    events = [event_of(scanned(path, case_id="C", case_slides=("2", "1"))) for path in slides]
    bags = [lab.tiler.handle(event, _quiet).events[0] for event in events]
    assert lab.reporter.handle(bags[0], _quiet).events == ()
    (last,) = lab.reporter.handle(bags[1], _quiet).events
    (also,) = lab.reporter.handle(bags[0], _quiet).events

    assert last.id == also.id
    assert last.data == also.data
    assert (last.key, last.data.case_id) == ("case/C", "C")


def test_an_event_of_another_kind_is_refused(lab, slide):
    event = event_of(scanned(slide))
    for call in (lab.reporter.find, lambda e: lab.reporter.handle(e, _quiet)):
        with pytest.raises(InvalidInputError) as caught:
            call(event)
        assert caught.value.code == "event-type"


def test_readiness_names_what_is_missing(lab, monkeypatch):
    assert list(lab.tiler.ready()) == list(lab.reporter.ready()) == []

    def away(_):
        raise TransientError("storage-unavailable", "Away.")

    monkeypatch.setattr(lab.store, "head", away)
    monkeypatch.setattr(lab.server, "ready", lambda model: False)
    assert list(lab.tiler.ready()) == ["model tile_encoder", "storage-unavailable"]
    assert list(lab.reporter.ready()) == ["model histgen", "storage-unavailable"]


def test_no_text_or_label_of_a_slide_reaches_objects_or_events(lab, tmp_path, caplog):
    slide = write_planted_slide(tmp_path / "P-1.svs")
    caplog.set_level(logging.DEBUG)
    (drafted,) = drafts_of(lab, [event_of(scanned(slide))])
    logged = caplog.text
    caplog.set_level(logging.WARNING)
    assert leaks(slide.read_bytes()), "something is planted"

    for key, data in lab.store.contents().items():
        assert leaks(key.encode() + data) == [], key
    assert leaks(json.dumps(drafted.to_json()).encode() + logged.encode()) == []
    assert json.loads(lab.store.get(drafted.data.draft_key))["provenance"]["slide"]["scanner"] == "Aperio"


@pytest.mark.parametrize("mpp", ["0", "nonsense", "352.7"])
def test_no_error_repeats_a_slides_text(tmp_path, mpp):
    """A dead letter holds the error's words."""
    slide = write_planted_slide(tmp_path / "P-2.svs")
    slide.write_bytes(
        slide.read_bytes().replace(b"MPP = 0.5|", f"MPP = {mpp}|".encode().ljust(10, b" ")[:10])
    )
    with pytest.raises(HistgenError) as caught, open_slide(slide):
        pass
    assert leaks(repr(caught.value.args).encode()) == []


def _quiet(stage: str, done: int, total: int) -> None:
    """Tell nobody."""

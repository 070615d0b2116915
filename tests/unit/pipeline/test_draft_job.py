"""bag.ready → report.drafted over an object store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
from job_kit import JobLab, Killed, event_of, scanned

from histgen_lib.catalogue.keys import DIGESTS
from histgen_lib.catalogue.pointers import BY_REPORT, read_pointer
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.reports.renderers.draft_json import from_json
from histgen_lib.telemetry.metrics import STAGE

FILES = ["digests.json", "draft.html", "draft.json", "draft.txt", "heatmap.webp", "thumbnail.webp"]


@pytest.fixture(scope="module")
def scanned_lab(tmp_path_factory, model_dir) -> tuple[Path, BagReady]:
    """Scan one slide, for tests that copy the store."""
    folder = tmp_path_factory.mktemp("scanned")
    slide = tiny_model.write_slide(folder / "sound.tif", side_px=640)
    ready = JobLab.at(folder, model_dir).scan_job.make_bag(scanned(slide))
    return folder, ready


@pytest.fixture
def lab(scanned_lab, tmp_path, model_dir) -> JobLab:
    return JobLab.copy_of(scanned_lab[0], tmp_path, model_dir)


@pytest.fixture
def ready(scanned_lab, tmp_path) -> BagReady:
    """Return the event data of the bag, with the slide in this test's own folder."""
    slide = shutil.copy(scanned_lab[0] / "sound.tif", tmp_path / "sound.tif")
    return replace(scanned_lab[1], uri=Path(slide).as_uri())


def code_of(lab: JobLab, ready: BagReady) -> str:
    with pytest.raises(InvalidInputError) as caught:
        lab.draft(ready)
    assert caught.value.hint
    return caught.value.code


def reports(lab: JobLab) -> dict[str, bytes]:
    return lab.store.contents("reports/")


def test_a_bag_becomes_a_report(lab, ready):
    done = lab.draft(ready)
    drafted, stored = done.data, reports(lab)
    folder = f"reports/sound/{drafted.report_digest}"
    draft = from_json(stored[drafted.draft_key])

    assert sorted(key.removeprefix(f"{folder}/") for key in stored if key.startswith(folder)) == FILES
    assert drafted.draft_key == f"{folder}/draft.json"
    assert (drafted.slide_id, drafted.abstained, drafted.case_id) == ("sound", draft.abstained, None)
    assert draft.provenance.inputs_digest == drafted.report_digest
    assert draft.provenance.slide.content_id == ready.content_id
    assert stored[f"{folder}/draft.html"].rstrip().endswith(b"</html>")
    assert stored[f"{folder}/thumbnail.webp"] == lab.store.get(
        ready.scan_key.replace(".scan.json", ".thumbnail.webp")
    )
    assert {"stage:generate", "stage:render", "stage:store"} <= set(done.measures)


def test_the_page_shows_the_evidence_tiles(lab, ready):
    stored = reports(lab) if lab.draft(ready) else {}
    page = next(data for key, data in stored.items() if key.endswith(".html")).decode()

    assert page.count("data:image/webp") > 1
    assert "no pixels" not in page


def test_draft_json_is_written_last_of_the_files_then_their_digests_then_the_pointer(lab, ready):
    drafted = lab.draft(ready).data
    written = [key for key in lab.store.written if ".history/" not in key]

    digests = drafted.draft_key.replace(DRAFT_JSON, DIGESTS)
    assert written[-3:] == [drafted.draft_key, digests, "reports/sound/latest.json"]


def test_the_pointer_names_the_latest_draft(lab, ready):
    drafted = lab.draft(ready).data

    assert read_pointer(lab.store, "reports/sound/latest.json", by=BY_REPORT) == {
        "schema": 1,
        "slide_id": "sound",
        "case_id": None,
        "report_digest": drafted.report_digest,
        "draft": drafted.draft_key,
        "turn": 0,
        "previous": [],
    }


def test_doing_it_twice_gives_the_same_bytes_and_writes_nothing(lab, ready):
    first = lab.draft(ready).data
    before, lab.store.written[:] = lab.store.contents(), []

    assert lab.draft(ready).data == first
    assert lab.store.contents() == before
    assert lab.store.written == lab.store.replaced == []


def test_a_finished_report_is_found_without_opening_the_slide(lab, ready):
    assert lab.find_draft(ready) is None
    drafted = lab.draft(ready).data

    assert lab.without_slides().find_draft(ready).data == drafted


@pytest.mark.parametrize("writes", range(7))
def test_a_report_is_completed_after_a_crash_between_its_objects(lab, ready, tmp_path, model_dir, writes):
    undisturbed = JobLab.copy_of(tmp_path, tmp_path / "undisturbed", model_dir)
    undisturbed.draft(ready)
    lab.store.dies_after = writes
    with pytest.raises(Killed):
        lab.draft(ready)
    lab.store.dies_after = None
    found = lab.find_draft(ready)
    drafted = found or lab.draft(ready)

    assert (found is not None) == (writes >= 5), (
        "once draft.json is there the report is found, and the pointer is completed"
    )
    assert drafted.data == undisturbed.find_draft(ready).data
    assert lab.store.contents() == undisturbed.store.contents()
    assert lab.store.replaced == []


def test_duplicates_of_older_events_never_move_the_pointer_back(lab, ready):
    first = lab.draft(ready).data
    narrower = replace(lab.draft_job, drafter=replace(lab.draft_job.drafter, beam_size=1))
    second = narrower.run(event_of(ready), ready).data
    assert first.report_digest != second.report_digest
    for _ in range(2):
        assert lab.find_draft(ready).data == first
        assert lab.draft(ready).data == first
    pointer = json.loads(lab.store.get("reports/sound/latest.json"))

    assert (pointer["report_digest"], pointer["previous"]) == (second.report_digest, [first.report_digest])


def test_a_missing_slide_is_a_dead_letter_and_leaves_nothing(lab, ready):
    """Without the evidence tiles the page would differ: better no page than a lesser one."""
    Path(ready.uri.removeprefix("file://")).unlink()

    assert code_of(lab, ready) == "slide-missing"
    assert reports(lab) == {}


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("file:///dev/zero", "slide-unreadable"),
        ("file:///proc/self/mem", "slide-unreadable"),
        ("file:///" + "a" * 4000, "slide-uri"),
        ("file:///a%00b", "slide-uri"),
        ("s3://other/a.svs", "uri-outside-roots"),
    ],
)
def test_a_bag_event_may_name_no_more_places_than_a_slide_event(lab, ready, uri, code):
    assert code_of(lab, replace(ready, uri=uri)) == code
    assert reports(lab) == {}


def test_a_slide_that_was_rescanned_meanwhile_is_refused(lab, ready):
    """Same name, same size, other pixels: evidence tiles must not come from another scan."""
    path = Path(ready.uri.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    for place in range(8, len(data), 97):
        data[place] ^= 1
    path.write_bytes(data)

    assert code_of(lab, ready) == "slide-changed"
    assert reports(lab) == {}


def test_a_bag_of_another_slide_is_refused(lab, ready, tmp_path):
    other = tiny_model.write_slide(tmp_path / "other.tif", side_px=640, seed=3)
    theirs = lab.scan_job.make_bag(scanned(other))

    assert code_of(lab, replace(ready, bag_key=theirs.bag_key)) == "bag-other-slide"


def test_a_missing_bag_is_named(lab, ready):
    lab.store.delete(ready.bag_key)

    assert code_of(lab, ready) == "object-missing"


def test_a_damaged_bag_is_named(lab, ready):
    lab.store.inner.put(ready.bag_key, lab.store.get(ready.bag_key)[:-50], if_absent=False)

    assert code_of(lab, ready) == "bag-unreadable"


def test_a_bag_of_another_tiling_counts_among_the_inputs(lab, ready):
    """Its draft is not what this model would make of the slide, and must not be stored in its place."""
    ordinary = lab.draft(ready).data
    record = ScanRecord.from_bytes(lab.store.get(ready.scan_key))
    tiling = record.tiling.model_copy(update={"min_tissue": 0.5})
    lab.store.inner.put(
        ready.scan_key, record.model_copy(update={"tiling": tiling}).to_bytes(), if_absent=False
    )
    other = lab.draft(ready).data

    assert other.report_digest != ordinary.report_digest
    assert from_json(lab.store.get(other.draft_key)).provenance.inputs_digest == other.report_digest


def test_an_abstention_is_published_and_counted(lab, ready, own_model_dir):
    tiny_model.set_thresholds(own_model_dir, report=0.999)
    done = JobLab.at(lab.folder, own_model_dir).draft(ready)

    assert done.data.abstained
    assert done.measures["histgen_abstentions_total"] == 1


@pytest.mark.parametrize("threshold", [0.01, 1e6])
def test_how_foreign_a_slide_is_is_measured_in_thresholds(lab, ready, own_model_dir, threshold):
    tiny_model.set_thresholds(own_model_dir, domain=threshold)
    job = JobLab.at(lab.folder, own_model_dir)
    done = job.draft(ready)
    domain = from_json(job.store.get(done.data.draft_key)).out_of_distribution

    assert done.measures["histgen_domain_distance"] == max(0.0, domain.score / threshold)
    assert done.measures["histgen_out_of_distribution_total"] == domain.flag
    assert domain.flag == (done.measures["histgen_domain_distance"] > 1)


def test_a_model_that_cannot_check_its_domain_measures_none(lab, ready, own_model_dir):
    update_config(own_model_dir, domain={})
    done = JobLab.at(lab.folder, own_model_dir).draft(ready)

    assert "histgen_domain_distance" not in done.measures
    assert done.measures["histgen_out_of_distribution_total"] == 0


def test_the_services_list_the_stages_of_their_jobs(lab, ready):
    from services.reporter.app import CODES as REPORTER
    from services.tiler.app import CODES as TILER

    event = event_of(scanned(lab.folder / "sound.tif"))
    measured = [lab.scan_job.run(event, event.data).measures, lab.draft(ready).measures]
    stages = [{name.removeprefix(STAGE) for name in one if name.startswith(STAGE)} for one in measured]

    assert stages == [set(TILER.stages), set(REPORTER.stages)]


def test_both_jobs_name_their_model_as_bags_and_reports_do(lab, ready):
    from histgen_lib.bags import unpack_bag

    done = lab.draft(ready)
    (wrote,), (encoded,) = lab.draft_job.models(), lab.scan_job.models()
    made = from_json(lab.store.get(done.data.draft_key)).provenance.model
    bag = unpack_bag(lab.store.get(ready.bag_key), "the bag")

    assert (wrote.network, wrote.name, wrote.digest) == ("histgen", made.name, made.sha256[:12])
    assert (encoded.network, encoded.name) == ("tile_encoder", bag.encoder_name)
    assert encoded.digest == (bag.encoder_sha256 or made.sha256)[:12]
    assert wrote.engine == encoded.engine == "onnx"


def test_a_draft_without_evidence_tiles_needs_no_slide(lab, ready, monkeypatch):
    monkeypatch.setattr("histgen_lib.pipeline.draft.sentences.TOP_TILES", 0)

    assert lab.without_slides().draft(ready).data.slide_id == "sound"


def test_progress_goes_through_every_stage(lab, ready):
    calls: list[tuple[str, int, int]] = []
    lab.draft(ready, lambda *call: calls.append(call))

    assert [stage for stage, done, total in calls if done == total] == ["open", "generate", "render", "store"]

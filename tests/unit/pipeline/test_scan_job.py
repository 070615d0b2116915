"""slide.scanned → bag.ready over an object store."""

from __future__ import annotations

import json
import os
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from job_kit import JobLab, Killed, scanned

from histgen_lib.bags import unpack_bag
from histgen_lib.catalogue.keys import bag_digests_key
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.pipeline.job import Stages
from histgen_lib.slides import Slide
from histgen_lib.worker.handler import OPENED

PARTS = {".parquet", ".thumbnail.webp", ".scan.json", ".digests.json"}


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory) -> Path:
    return tiny_model.write_slide(tmp_path_factory.mktemp("slides") / "sound.tif", side_px=640)


@pytest.fixture
def lab(tmp_path, model_dir) -> JobLab:
    return JobLab.at(tmp_path, model_dir)


@pytest.fixture
def own_slide(tmp_path, small_slide) -> Path:
    return Path(shutil.copy(small_slide, tmp_path / "sound.tif"))


def code_of(lab: JobLab, announced) -> str:
    with pytest.raises(InvalidInputError) as caught:
        lab.scan_job.make_bag(announced)
    assert caught.value.hint
    return caught.value.code


def test_a_slide_becomes_a_bag_a_thumbnail_and_a_record(lab, small_slide):
    announced = scanned(small_slide, case_id="C", case_slides=("sound", "other"))
    stages = Stages()
    ready, stored = lab.scan_job.make_bag(announced, stages), lab.store.contents("bags/")
    bag = unpack_bag(stored[ready.bag_key], "it")

    assert {key.removeprefix(f"bags/sound/{ready.bag_digest}") for key in stored} == PARTS
    assert (ready.slide_id, ready.uri, ready.content_id) == (
        announced.slide_id,
        announced.uri,
        announced.content_id,
    )
    assert (ready.case_id, ready.case_slides) == ("C", ("sound", "other"))
    assert (ready.tiles, ready.bag_bytes) == (len(bag), len(stored[ready.bag_key]))
    assert ready.mpp == pytest.approx(0.5)
    assert stages.measures()["histgen_tiles_encoded_total"] == len(bag)
    assert {"stage:open", "stage:grid", "stage:read", "stage:encode", "stage:render", "stage:store"} <= set(
        stages.measures()
    )


def test_the_record_is_written_last_of_the_set_and_then_its_digests(lab, small_slide):
    ready = lab.scan_job.make_bag(scanned(small_slide))

    assert lab.store.written[-2:] == [ready.scan_key, bag_digests_key("sound", ready.bag_digest)]
    assert set(json.loads(lab.store.get(ready.scan_key))) == set(ScanRecord.model_fields) - {"file_mpp"}


def test_doing_it_twice_gives_the_same_bytes_and_writes_nothing(lab, small_slide):
    first = lab.scan_job.make_bag(scanned(small_slide))
    before, lab.store.written[:] = lab.store.contents(), []
    second = lab.scan_job.make_bag(scanned(small_slide))

    assert second == first
    assert lab.store.contents() == before
    assert lab.store.written == lab.store.replaced == []


def test_two_stores_get_the_same_bytes(lab, small_slide, tmp_path, model_dir):
    other = JobLab.at(tmp_path / "other", model_dir)
    for one in (lab, other):
        one.scan_job.make_bag(scanned(small_slide))

    assert other.store.contents() == lab.store.contents()


def test_a_finished_bag_is_found_without_opening_the_slide(lab, small_slide):
    announced = scanned(small_slide)
    assert lab.scan_job.find_bag(announced) is None
    ready = lab.scan_job.make_bag(announced)

    assert lab.without_slides().scan_job.find_bag(announced) == ready


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_set_is_completed_after_a_crash_between_its_objects(lab, small_slide, tmp_path, model_dir, writes):
    announced = scanned(small_slide)
    lab.store.dies_after = writes
    with pytest.raises(Killed):
        lab.scan_job.make_bag(announced)
    lab.store.dies_after = None
    assert lab.scan_job.find_bag(announced) is None
    lab.scan_job.make_bag(announced)
    undisturbed = JobLab.at(tmp_path / "undisturbed", model_dir)
    undisturbed.scan_job.make_bag(announced)

    assert lab.store.contents() == undisturbed.store.contents()
    assert lab.store.replaced == []


@pytest.mark.parametrize("change", [{"mpp": 0.6}, {"slide_id": "renamed"}])
def test_what_decides_the_bytes_decides_the_key(lab, small_slide, change):
    first, second = (lab.scan_job.make_bag(scanned(small_slide, **fields)) for fields in ({}, change))

    assert first.bag_digest != second.bag_digest
    assert ScanRecord.from_bytes(lab.store.get(second.scan_key)).mpp_source == (
        "stated" if "mpp" in change else "file"
    )


def test_stated_settings_of_the_encoder_decide_the_key_and_derived_ones_do_not(
    lab, small_slide, own_model_dir, tmp_path
):
    """Bags of before settings were recorded are found under the keys that they have."""
    encoder = lab.scan_job.scanner.model.folder.encoder
    digests = [lab.scan_job.make_bag(scanned(small_slide)).bag_digest]
    for name in ("1", "2"):
        update_config(own_model_dir, encoder=dict(encoder) | {"settings_sha256": name * 64})
        stated = JobLab.at(tmp_path / name, own_model_dir)
        ready = stated.scan_job.make_bag(scanned(small_slide))
        assert unpack_bag(stated.store.get(ready.bag_key), "it").encoder_settings == name * 64
        digests.append(ready.bag_digest)
    assert len(set(digests)) == 3
    assert unpack_bag(lab.store.contents("bags/")[f"bags/sound/{digests[0]}.parquet"], "it").encoder_settings


def test_a_stated_scale_that_contradicts_the_file_is_recorded_beside_the_files_own(lab, small_slide):
    contradicted = lab.scan_job.make_bag(scanned(small_slide, mpp=0.7))
    record = ScanRecord.from_bytes(lab.store.get(contradicted.scan_key))

    assert (record.mpp, record.mpp_source) == (0.7, "stated")
    assert record.file_mpp == pytest.approx(0.5, rel=1e-3)
    assert "scale-contradicted" in record.quality.flags


def test_a_corrected_sidecar_gives_another_bag(lab, own_slide):
    (own_slide.parent / "sound.tif.json").write_text('{"mpp": 0.7}')
    first = lab.scan_job.make_bag(scanned(own_slide))
    (own_slide.parent / "sound.tif.json").write_text('{"mpp": 0.6}')
    assert lab.scan_job.find_bag(scanned(own_slide)) is None
    second = lab.scan_job.make_bag(scanned(own_slide))

    assert (first.mpp, second.mpp) == (0.7, 0.6)
    assert first.bag_key != second.bag_key


def test_a_file_of_another_size_than_announced_is_not_read_through(lab, own_slide, monkeypatch):
    announced = scanned(own_slide, size_bytes=own_slide.stat().st_size - 1)
    monkeypatch.setattr("histgen_lib.access.slide_files.content_id_of", None)

    assert code_of(lab, announced) == "slide-changed"


def test_a_link_that_is_redirected_while_the_slide_is_read_counts_as_a_change(lab, own_slide, tmp_path):
    """It is redirected to the very same bytes, so that neither size nor time shows it."""
    link = tmp_path / "link.tif"
    link.symlink_to(own_slide)
    announced, infer = scanned(link), lab.server.infer

    def turned(*args):
        link.unlink()
        link.symlink_to(Path(shutil.copy2(own_slide, tmp_path / "copy.tif")))
        return infer(*args)

    lab.server.infer = turned
    assert code_of(lab, announced) == "slide-changed"
    assert lab.store.contents() == {}


def test_another_slide_at_the_announced_place_is_refused(lab, own_slide):
    announced = scanned(own_slide)
    tiny_model.write_slide(own_slide, side_px=640, seed=9)

    assert code_of(lab, announced) == "slide-changed"
    assert lab.store.contents() == {}


def test_a_mended_slide_is_taken_as_found_under_the_digest_of_its_new_bytes(lab, own_slide):
    """As if the mended slide itself had been announced."""
    announced = scanned(own_slide)
    tiny_model.write_slide(own_slide, side_px=640, seed=9)

    ready = lab.scan_job.make_bag(announced, as_found=True)
    assert ready == lab.scan_job.find_bag(scanned(own_slide))
    assert lab.scan_job.find_bag(announced) is None


def test_a_slide_that_changes_while_it_is_read_is_refused(lab, own_slide):
    """Nothing of it is stored, though every single read may have succeeded."""
    announced, infer = scanned(own_slide), lab.server.infer

    def overwritten(*args):
        os.utime(own_slide, ns=(1, 1))
        return infer(*args)

    lab.server.infer = overwritten
    assert code_of(lab, announced) == "slide-changed"
    assert lab.store.contents() == {}


def test_a_read_that_fails_because_the_slide_changed_says_so(lab, own_slide):
    """A file that is truncated during a read looks damaged, but is only being copied."""
    announced = scanned(own_slide)

    def cut(*_):
        own_slide.write_bytes(own_slide.read_bytes()[:1000])
        raise InvalidInputError("slide-read-failed", "Pixels cannot be read.")

    lab.server.infer = cut
    assert code_of(lab, announced) == "slide-changed"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: path.unlink(), "slide-missing"),
        (lambda path: path.write_bytes(b""), "slide-empty"),
        (lambda path: path.write_bytes(b"no slide at all"), "slide-format-unknown"),
        (lambda path: path.write_bytes(path.read_bytes()[:200_000]), "slide-damaged"),
        (lambda path: tiny_model.write_slide(path, mpp=None), "slide-mpp-unknown"),
        (lambda path: tiny_model.write_slide(path, mpp=4.5), "slide-too-coarse"),
    ],
)
def test_bad_slides_are_refused_with_their_own_codes(lab, own_slide, damage, code):
    before = scanned(own_slide)
    damage(own_slide)
    announced = scanned(own_slide) if own_slide.exists() else before

    assert code_of(lab, announced) == code


def test_an_unreachable_server_is_left_to_the_caller(lab, small_slide):
    def away(*_):
        raise TransientError("inference-unavailable", "Away.")

    lab.server.infer = away
    with pytest.raises(TransientError):
        lab.scan_job.make_bag(scanned(small_slide))
    assert lab.store.contents() == {}


def test_progress_goes_through_every_stage(lab, small_slide):
    calls: list[tuple[str, int, int]] = []
    ready = lab.scan_job.make_bag(scanned(small_slide), Stages(lambda *call: calls.append(call)))

    assert [stage for stage, done, total in calls if done == total] == ["open", "grid", "encode", "store"]
    assert ("encode", ready.tiles, ready.tiles) in calls


def test_what_is_neither_reading_nor_encoding_counts_as_waiting(lab, small_slide, monkeypatch):
    """Each batch takes 2 s to read, and each report of features 5 s; the server answers at once."""
    now = [0.0]
    real = Slide.read_tiles

    def slow(self, *args, **how):
        for batch in real(self, *args, **how):
            now[0] += 2
            yield batch

    def report(stage: str, done: int, total: int) -> None:
        now[0] += 5 * (stage == "encode" and done > 0)

    monkeypatch.setattr(Slide, "read_tiles", slow)
    stages = Stages(report, clock=lambda: now[0])
    lab.scan_job.make_bag(scanned(small_slide), stages)
    batches = stages.seconds["read"] / 2

    assert batches >= 1
    assert (stages.seconds["wait"], stages.seconds["encode"]) == (5 * batches, 0)


def test_the_thumbnail_is_the_slide(lab, small_slide):
    from PIL import Image

    ready = lab.scan_job.make_bag(scanned(small_slide))
    key = ready.scan_key.replace(".scan.json", ".thumbnail.webp")
    (lab.folder / "t.webp").write_bytes(lab.store.get(key))
    pixels = np.asarray(Image.open(lab.folder / "t.webp").convert("RGB"))

    assert pixels.shape == (640, 640, 3)
    assert pixels[5, 5].min() > 230
    assert pixels[320, 320].min() < 200


def test_a_slide_with_too_many_bytes_or_tiles_is_refused_before_it_is_read(lab, small_slide):
    """Bytes: not one is read. Tiles: none is encoded."""
    size = small_slide.stat().st_size
    few_bytes, few_tiles = (
        replace(lab.scan_job, files=copy(lab.scan_job.files)),
        replace(lab.scan_job, scanner=replace(lab.scan_job.scanner, most_tiles=1)),
    )
    few_bytes.files.most_bytes = size - 1
    for job, code, setting in (
        (few_bytes, "slide-too-large", "HISTGEN_SLIDE_BYTES"),
        (few_tiles, "slide-too-many-tiles", "HISTGEN_SLIDE_TILES"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            job.make_bag(scanned(small_slide))
        assert (caught.value.code, setting in caught.value.hint) == (code, True)
    assert lab.store.written == []


def test_the_encoding_stage_begins_once_the_first_tiles_are_read(lab, small_slide, monkeypatch):
    """The worker takes it for the end of opening the slide."""
    reported: list[str] = []
    real = Slide.read_tiles

    def watched(self, *args, **how):
        assert OPENED not in reported
        yield from real(self, *args, **how)

    monkeypatch.setattr(Slide, "read_tiles", watched)
    lab.scan_job.make_bag(scanned(small_slide), Stages(lambda stage, done, total: reported.append(stage)))
    assert OPENED in reported

"""An object that is damaged or gone is made again by the job that made it, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from damage import DAMAGE, damage
from job_kit import JobLab, scanned

from histgen_lib.catalogue.integrity import is_readable
from histgen_lib.catalogue.keys import bag_digests_key


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_dir) -> Path:
    """Draft one slide, for tests that copy the store."""
    folder = tmp_path_factory.mktemp("finished")
    lab = JobLab.at(folder, model_dir)
    lab.draft(lab.scan_job.make_bag(scanned(tiny_model.write_slide(folder / "a.tif", side_px=640))))
    return folder


@pytest.fixture
def lab(finished, tmp_path, model_dir) -> JobLab:
    return JobLab.copy_of(finished, tmp_path, model_dir)


OBJECTS = [
    *(".parquet", ".scan.json", "/draft.json", "/draft.html", "/draft.txt", "/heatmap.webp"),
    *("bags.thumbnail.webp", "reports/thumbnail.webp"),
]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("digests", ["written", "of no version yet"])
def test_whatever_is_damaged_lies_there_again_with_the_same_bytes(finished, lab, what, how, digests):
    room, _, ending = what.rpartition("thumbnail.webp") if "thumb" in what else ("", "", what)
    key = next(
        key
        for key in sorted(lab.store.contents())
        if key.endswith(ending or "thumbnail.webp") and key.startswith(room.strip("./"))
    )
    before = lab.store.contents()
    if digests != "written":
        for sums in [one for one in before if one.endswith("digests.json")]:
            lab.store.inner.delete(sums)
        if how != "missing" and is_readable(key, damage(before[key], how) or b""):
            return  # a text may well be so: nothing was written down to tell
    damage(before[key], how, lab.store.inner, key)
    lab.remake(scanned(finished / "a.tif"))

    assert lab.store.contents() == before
    assert set(lab.store.replaced) <= {key}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_digests_are_written_again_and_nothing_is_made_anew(finished, lab, how):
    slide = scanned(finished / "a.tif")
    ready = lab.scan_job.find_bag(slide)
    key = bag_digests_key("a", ready.bag_digest)
    before = lab.store.contents()
    damage(before[key], how, lab.store.inner, key)

    assert lab.without_slides().scan_job.find_bag(slide) == ready
    assert lab.store.contents() == before

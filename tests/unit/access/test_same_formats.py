"""A folder walk, the watched folder, a backfill and a notification know the very same formats."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from histgen_lib.access.finding import LeftOut, find_slides
from histgen_lib.runtime.stopping import Stop
from histgen_lib.slides.formats import DICOM_SUFFIX, FORMATS, HAMAMATSU_SUFFIXES, SLIDE_SUFFIXES
from histgen_lib.storage import ObjectInfo
from services.gateway import notifications
from services.gateway.backfill import Step, backfill
from services.gateway.folder import Folder

NAMES = sorted(f"a{ending}" for suffix in SLIDE_SUFFIXES for ending in (suffix, suffix.upper()))
"""A slide of each format, its suffix in lower and upper case."""
OTHERS = ("a.txt", "a.jpg", "a.isyntax", "a.vsi", "a.svs.part", "svs", ".svs")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Create a folder for each file, so that none belongs to another slide."""
    for name in (*NAMES, *OTHERS):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\n")
    return tmp_path


def expected(root: Path) -> set[Path]:
    """Return the paths of the slides; of DICOM files their folder."""
    return {root / name if name.lower().endswith(DICOM_SUFFIX) else root / name / name for name in NAMES}


def run_backfill(prefix: str, keys: tuple[str, ...] = ()) -> list[Step | LeftOut]:
    """List what a backfill would submit and what it leaves out. `keys`: the objects in the bucket."""
    objects = [ObjectInfo(key, 1, "etag", 0.0) for key in keys]
    bucket = SimpleNamespace(list=lambda prefix: iter(objects))
    intake = SimpleNamespace(
        contents=SimpleNamespace(bucket=lambda name: bucket), ledger=SimpleNamespace(seen=lambda mark: None)
    )
    found: list[Step | LeftOut] = []
    backfill(intake, prefix, every_s=0.0, stop=Stop(), dry_run=True, progress=found.append)
    return found


def test_a_folder_walk_finds_every_format_and_says_what_it_leaves_out(archive: Path):
    found = find_slides(archive)
    assert set(found.slides) == expected(archive)
    assert {Path(one.name).name for one in found.left_out} == set(OTHERS)


def test_the_watched_folder_sees_every_format_and_counts_what_it_ignores(archive: Path):
    look = Folder(archive).look()
    assert {candidate.path for candidate in look.candidates} == expected(archive)
    assert look.ignored == len({"a.txt", "a.jpg", "a.isyntax", "a.vsi", "svs"})


def test_a_backfill_of_a_folder_takes_every_format_and_says_what_it_leaves_out(archive: Path):
    found = run_backfill(str(archive))
    assert {step.place.path for step in found if isinstance(step, Step)} == expected(archive)
    assert {Path(one.name).name for one in found if isinstance(one, LeftOut)} == set(OTHERS)


def test_a_backfill_of_a_bucket_takes_every_format_and_says_what_it_leaves_out():
    found = run_backfill("s3://lab", (*NAMES, *OTHERS))
    assert {step.place.key for step in found if isinstance(step, Step)} == set(NAMES)
    assert {Path(one.name).name for one in found if isinstance(one, LeftOut)} == set(OTHERS)


def test_a_notification_announces_every_format_and_counts_what_it_ignores():
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "lab"}, "object": {"key": name}}}
        for name in (*NAMES, *OTHERS)
    ]
    found = notifications.read(json.dumps({"Records": records}).encode())
    assert {new.place.key for new in found.new} == set(NAMES)
    assert found.ignored == len(OTHERS)


def test_no_two_formats_share_a_suffix():
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len(suffixes) == len(set(suffixes)) == len(SLIDE_SUFFIXES)
    assert {".vmu", ".czi", *HAMAMATSU_SUFFIXES, DICOM_SUFFIX} <= SLIDE_SUFFIXES


def test_the_manual_lists_every_suffix():
    manual = (Path(__file__).parents[3] / "docs/slides.md").read_text(encoding="utf-8")
    assert {suffix for suffix in SLIDE_SUFFIXES if f"`{suffix}`" not in manual} == set()

"""The model that ships with the package: right about its own world, honest about any other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_runs import histgen

from histgen_lib.cli.options import DEMO_MODEL
from histgen_lib.errors import InvalidInputError

MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def shipped() -> Path:
    """Find the demo model."""
    assert (DEMO_MODEL / "config.json").is_file(), f"the demo model is missing from the package: {DEMO_MODEL}"
    return DEMO_MODEL


@pytest.fixture(scope="module")
def demo(shipped, tmp_path_factory) -> tuple[Path, dict]:
    """Run the demo, the whole stream, on four slides that were never used in training."""
    out = tmp_path_factory.mktemp("demo")
    run = histgen("demo", "--out", out, "--count", 4, "--inference", "onnx", "--json")
    assert run.code == 0, run.err
    return out, json.loads(run.out)


def test_the_demo_says_how_long_it_took(demo):
    summary = demo[1]["summary"]

    assert (summary["drafts"], summary["dead_letters"]) == (4, 0)
    assert 0 < summary["scan_to_draft_p50_s"] <= summary["scan_to_draft_max_s"]
    assert [row["page"] for row in demo[1]["slides"] if not Path(row["page"]).is_file()] == []


def test_it_is_small_enough_to_ship(shipped):
    assert sum(path.stat().st_size for path in shipped.rglob("*")) <= MOST_BYTES


def test_it_calls_itself_synthetic(shipped):
    config = json.loads((shipped / "config.json").read_text())

    assert config["synthetic"] is True
    assert "synthetic" in config["name"]


def test_it_reads_slides_of_its_own_world(demo):
    rows = demo[1]["slides"]
    right, total = sum(row["right"] for row in rows), sum(row["fields"] for row in rows)

    assert right / total >= 0.85, [(row["draft"], row["report"]) for row in rows]


def test_slides_of_its_own_world_are_in_distribution(demo):
    assert [row["slide_id"] for row in demo[1]["slides"] if row["out_of_distribution"]] == []


def test_doctor_accepts_it(shipped, tmp_path):
    run = histgen("doctor", "--out", tmp_path, "--json")

    assert json.loads(run.out)["healthy"], run.out


def test_the_command_line_gives_the_same_bytes_as_the_stream(demo, shipped, tmp_path):
    """But for how often the index of cases had been rebuilt by then."""
    out, content = demo
    row = content["slides"][0]
    slide_id, streamed = row["slide_id"], Path(row["page"]).parent
    (index,) = out.rglob("case-index")
    slide = out / "world" / "slides" / f"{slide_id}.tif"
    run = histgen("report", slide, "--cases", index, "--out", tmp_path)
    rebuilt = re.compile(rb'"index_version": \d+')

    assert run.code == 0, run.output
    for name in ("draft.json", "draft.txt", "draft.html"):
        ours, theirs = ((folder / name).read_bytes() for folder in (tmp_path / slide_id, streamed))
        assert rebuilt.sub(b"", ours) == rebuilt.sub(b"", theirs), name


def _real_slides(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".svs", ".tiff"})


def test_every_real_slide_is_out_of_distribution_or_needs_its_mpp(shipped, shared_dir, tmp_path):
    for slide in _real_slides(shared_dir / "slides"):
        run = histgen("report", slide, "--out", tmp_path / "plain", "--json")
        content = json.loads(run.out)
        if run.code == InvalidInputError.exit_code:
            assert content["errors"][0]["code"] == "slide-mpp-unknown"
            run = histgen("report", slide, "--out", tmp_path / "stated", "--mpp", 0.25, "--json")
            content = json.loads(run.out)
        assert run.code == 0, run.output
        draft = content["drafts"][0]
        assert draft["out_of_distribution"], slide.name
        assert draft["abstained"]
        text = Path(draft["files"]["text"]).read_text(encoding="utf-8")
        assert text.startswith("*** OUT OF DISTRIBUTION"), slide.name

"""The world folder: readable slides, the same bytes every time, and runs that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.synth import generate, sample
from histgen_lib.synth.painting import RenderedSlide
from histgen_lib.synth.tiff import write_slide

SEED = 23
START = min(range(60), key=lambda i: sum(max(sample(SEED, j).size_px) for j in (i, i + 1)))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    generate(out, 2, SEED, workers=1, start=START)
    return out


def test_a_second_run_with_more_workers_writes_the_same_bytes(world: Path, tmp_path: Path) -> None:
    generate(tmp_path, 2, SEED, workers=2, start=START)
    assert digests(tmp_path) == digests(world)


def test_another_seed_gives_other_slides(world: Path) -> None:
    assert sample(SEED, START).fields != sample(SEED + 1, START).fields


def test_the_folder_holds_slides_truth_and_annotation(world: Path) -> None:
    annotation = json.loads((world / "annotation.json").read_text())
    entries = [entry for split in ("train", "val", "test") for entry in annotation[split]]
    assert len(entries) == 2
    for entry in entries:
        truth = json.loads((world / "truth" / f"{entry['id']}.json").read_text())
        assert truth["report"] == entry["report"]
        assert all((world / path).is_file() for path in entry["image_path"])
        assert (world / "truth" / f"{entry['id']}.png").is_file()


def test_openslide_reads_size_resolution_and_levels(world: Path) -> None:
    for path in (world / "slides").iterdir():
        with openslide.OpenSlide(path) as slide:
            truth = json.loads((world / "truth" / f"{path.stem}.json").read_text())
            assert list(slide.dimensions) == truth["size_px"]
            assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25)
            assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.25)
            assert slide.level_downsamples == pytest.approx(
                [2**k for k in range(slide.level_count)], rel=0.01
            )
            assert max(slide.level_dimensions[-1]) < 512


def test_openslide_sees_the_rendered_pixels_within_jpeg_loss(involved: RenderedSlide, tmp_path: Path) -> None:
    write_slide(involved, tmp_path / "slide.tif")
    w, h = involved.spec.size_px
    with openslide.OpenSlide(tmp_path / "slide.tif") as slide:
        for x, y in ((w // 2, h // 2), (w // 3 + 11, h // 3 + 7), (10, 10), (w - 300, h - 300)):
            seen = np.asarray(slide.read_region((x, y), 0, (256, 256)))[:, :, :3].astype(int)
            assert np.abs(seen - involved.image[y : y + 256, x : x + 256]).mean() < 6


def test_complete_slides_are_kept_and_missing_ones_drawn(world: Path) -> None:
    before = digests(world)
    slides = sorted((world / "slides").iterdir())
    kept = slides[0].stat().st_mtime_ns
    slides[1].unlink()
    (world / "truth" / f"{slides[1].stem}.json").unlink()
    generate(world, 2, SEED, workers=1, start=START)
    assert digests(world) == before
    assert slides[0].stat().st_mtime_ns == kept


def test_a_truth_without_its_slide_does_not_count_as_complete(world: Path) -> None:
    before = digests(world)
    next((world / "slides").iterdir()).unlink()
    generate(world, 2, SEED, workers=1, start=START)
    assert digests(world) == before


@pytest.mark.parametrize(("split", "name"), [("test", "test"), ("train", "train")])
def test_all_slides_can_go_to_one_split(world: Path, split: str, name: str) -> None:
    annotation = json.loads(generate(world, 2, SEED, workers=1, start=START, split=split).read_text())
    assert len(annotation[name]) == 2


def test_slides_of_an_earlier_run_stay_in_the_annotation(world: Path) -> None:
    """A world can therefore get its splits one call at a time."""
    generate(world, 1, SEED, workers=1, start=START, split="train")
    annotation = json.loads(generate(world, 1, SEED, workers=1, start=START + 1, split="val").read_text())
    ids = {split: [case["id"] for case in cases] for split, cases in annotation.items()}
    assert ids == {
        "train": [sample(SEED, START).slide_id],
        "val": [sample(SEED, START + 1).slide_id],
        "test": [],
    }


def test_progress_counts_up_to_the_total(world: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(world, 2, SEED, workers=1, start=START, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"count": 0}, "synth-count"),
        ({"count": 1, "seed": -1}, "synth-seed"),
        ({"count": 1, "start": -1}, "synth-seed"),
        ({"count": 1, "split": "some"}, "synth-split"),
        ({"count": 1, "val_share": 0.8, "test_share": 0.8}, "synth-split"),
        ({"count": 1, "val_share": float("nan")}, "synth-split"),
    ],
)
def test_invalid_requests_to_synth_are_refused_with_a_code(
    tmp_path: Path, options: dict[str, object], code: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        generate(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_seed_is_left_untouched(world: Path) -> None:
    before = digests(world)
    with pytest.raises(InvalidInputError) as caught:
        generate(world, 1, SEED + 1)
    assert caught.value.code == "synth-other-seed"
    assert digests(world) == before


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError) as caught:
        generate(tmp_path / "file", 1)
    assert caught.value.code == "synth-output"


def test_a_damaged_marker_is_refused_as_output(tmp_path: Path) -> None:
    (tmp_path / "synth.json").write_text("not json")
    with pytest.raises(InvalidInputError) as caught:
        generate(tmp_path, 1)
    assert caught.value.code == "synth-output"

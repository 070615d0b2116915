"""Three difficult real slides, if they lie beside the checkout."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, assess_quality, open_slide, plan_grid
from histgen_lib.slides.quality import DAMAGE

SLIDES = {
    # name: (mpp to state, tiles at 0.5 mpp, tissue mm²), both as seen on pictures of the masks
    "CMU-1-Small-Region.svs": (None, (45, 65), (0.55, 0.75)),
    "TCGA-CR-7395-01A-01-TS1.svs": (0.5, (155, 185), (2.3, 2.8)),
    "PIT_06_00633_01.tiff": (0.5, (18, 30), (0.22, 0.33)),
}


@pytest.mark.parametrize("name", SLIDES)
def test_gives_tiles_of_its_tissue_and_no_false_flag(shared_dir, name):
    mpp, tiles, tissue_mm2 = SLIDES[name]
    with open_slide(shared_dir / "slides" / name, mpp=mpp) as slide:
        grid = plan_grid(slide, TilingSettings())
        assert tiles[0] <= len(grid) <= tiles[1]
        pixels = np.concatenate([batch.pixels for batch in slide.read_tiles(grid)])
        report = assess_quality(slide, grid)
    assert pixels.shape == (len(grid), 256, 256, 3)
    assert (pixels.mean(axis=(1, 2, 3)) < 242).all()
    assert report.flags == ()
    # Of JPEG 2000 only lost parts are noticed, not noise.
    assert (DAMAGE in report.not_checked) == name.startswith("TCGA")
    assert tissue_mm2[0] < report.tissue_mm2 < tissue_mm2[1]


def test_a_believable_scale_is_taken_from_the_file(shared_dir):
    with open_slide(shared_dir / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert (slide.mpp, slide.mpp_source, slide.scanner) == (0.499, "file", "CPAPERIOCS")


@pytest.mark.parametrize(
    ("name", "words"),
    [("PIT_06_00633_01.tiff", "352.78"), ("TCGA-CR-7395-01A-01-TS1.svs", "does not say")],
)
def test_a_false_or_missing_scale_is_refused(shared_dir, name, words):
    with pytest.raises(InvalidInputError) as caught:
        open_slide(shared_dir / "slides" / name)
    assert caught.value.code == "slide-mpp-unknown"
    assert words in caught.value.message


def test_the_label_of_a_real_slide_is_out_of_reach(shared_dir):
    """OpenSlide offers its label and macro; an open slide must hold neither them nor the file's comments."""
    with open_slide(shared_dir / "slides" / "CMU-1-Small-Region.svs") as slide:
        kept = slide._reader.properties
    scale = {"openslide.mpp-x", "openslide.mpp-y", "aperio.AppMag"}
    assert set(kept) == {"openslide.vendor", *scale, "aperio.ScanScope ID"}

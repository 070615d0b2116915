"""A level is used only if it shows what level 0 shows; a bad one is left out and flagged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from dicom_series import write_series
from stained_picture import stained
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import Level, TilingSettings, assess_quality, open_slide, plan_grid
from histgen_lib.slides.pyramid import believed_levels
from histgen_lib.slides.readers._openslide import OpenSlideImage
from histgen_lib.synth import generate

FLAG = "levels-left-out"


def reduced(image, by, how=cv2.INTER_AREA):
    size = (image.shape[1] // by, image.shape[0] // by)
    return cv2.resize(image, size, interpolation=how)


def padded(image, width, height, value=255):
    out = np.full((height, width, 3), value, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def whole_tiles(image):
    width, height = (-(-side // 256) * 256 for side in image.shape[1::-1])
    return padded(image, width, height)


def padded_in_shape(image, by, value=255):
    """Pad both sides by the same factor: the shape says nothing."""
    width, height = (round(side * by) for side in image.shape[1::-1])
    return padded(image, width, height, value)


def tiles_of(path, **how):
    with open_slide(path, **how) as slide:
        grid = plan_grid(slide, TilingSettings())
        pixels = np.concatenate([batch.pixels for batch in slide.read_tiles(grid)])
        return grid, pixels, slide.flags, assess_quality(slide, grid).flags


def a_pixel_aside(image):
    return np.pad(image[:-1, :-1], ((1, 0), (1, 0), (0, 0)), "edge")


BAD = {
    "padded to whole tiles": lambda p: whole_tiles(reduced(p, 4)),
    "padded to a square": lambda p: padded(reduced(p, 4), 1024, 1024),
    "padded in shape": lambda p: padded_in_shape(reduced(p, 4), 1.4),
    "padded in shape by a twentieth": lambda p: padded_in_shape(reduced(p, 4), 1.05),
    "padded in shape in black": lambda p: padded_in_shape(reduced(p, 4), 1.2, 0),
    "shifted": lambda p: np.roll(reduced(p, 4), 12, 1),
    "upside down": lambda p: np.ascontiguousarray(reduced(np.roll(p, 200, 0), 4)[::-1]),
    "of another slide": lambda p: reduced(stained(*p.shape[:2], seed=8), 4),
    "white": lambda p: np.full_like(reduced(p, 4), 255),
    "black": lambda p: np.zeros_like(reduced(p, 4)),
    "its lower half lost": lambda p: padded(
        reduced(p, 4)[: p.shape[0] // 8], p.shape[1] // 4, p.shape[0] // 4
    ),
    "a label": lambda p: label(p.shape[1] // 4, p.shape[0] // 4),
    "a label of another shape": lambda p: label(512, 512),
    "a label of glass with a name": lambda p: label(p.shape[1] // 4, p.shape[0] // 4, ground=243),
}


def label(width, height, ground=255):
    picture = np.full((height, width, 3), ground, np.uint8)
    for line in range(40, height - 20, 60):
        cv2.putText(picture, "S26-0815 Doe", (20, line), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (20, 20, 20), 2)
    return picture


@pytest.mark.parametrize("kind", BAD)
def test_a_level_that_shows_something_else_is_left_out_and_flagged(make_slide, picture, kind):
    right = make_slide("right.tif", [picture, halved(picture)], mpp=0.25)
    wrong = make_slide("wrong.tif", [picture, halved(picture), BAD[kind](picture)], mpp=0.25)
    expected, found = tiles_of(right), tiles_of(wrong)
    assert found[2] == (FLAG,)
    assert FLAG in found[3]
    assert FLAG not in expected[3]
    assert np.array_equal(found[0].xy, expected[0].xy)
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", BAD)
def test_where_all_smaller_levels_are_bad_level_0_is_read(make_slide, picture, kind):
    small = picture[:1500, :1700]
    wrong = make_slide("wrong.tif", [small, BAD[kind](small)], mpp=0.5)
    with open_slide(wrong) as slide:
        assert [level.size for level in slide.levels] == [(1700, 1500)]
        assert np.abs(slide.overview[0].mean((0, 1)) - small.mean((0, 1))).max() < 3
        assert len(slide.thumbnail(64))


def test_a_bad_level_in_the_middle_costs_only_itself(make_slide, picture):
    levels = [picture, BAD["shifted"](picture), reduced(picture, 8), reduced(picture, 16)]
    with open_slide(make_slide("a.tif", levels, mpp=0.25)) as slide:
        assert [round(level.downsample) for level in slide.levels] == [1, 8, 16]
        assert np.abs(slide.read_region(0, 0, 1, 250, 250).astype(int) - levels[2][:250, :250]).mean() < 6


def test_a_bad_level_of_a_dicom_series_is_left_out_and_flagged(tmp_path, picture):
    other = reduced(stained(*picture.shape[:2], seed=8), 4)
    series = write_series(tmp_path / "case", [picture, halved(picture), other], mpp=0.25)
    with open_slide(series) as slide:
        assert [round(level.downsample) for level in slide.levels] == [1, 2]
        assert slide.flags == (FLAG,)


HONEST = {
    "mean": lambda p: [reduced(p, by) for by in (2, 4, 8, 16)],
    "every other pixel": lambda p: [reduced(p, by, cv2.INTER_NEAREST) for by in (2, 4, 8, 16)],
    "bilinear": lambda p: [reduced(p, by, cv2.INTER_LINEAR) for by in (2, 4, 8, 16)],
    "sharpened": lambda p: [reduced(p, by, cv2.INTER_LANCZOS4) for by in (2, 4, 8, 16)],
    "of a broken factor": lambda p: [reduced(p, by) for by in (3, 7, 11)],
    "a single one, far away": lambda p: [reduced(p, 32)],
    "a pixel aside": lambda p: [a_pixel_aside(reduced(p, by)) for by in (2, 4, 8)],
    "darker by a little": lambda p: [(reduced(p, by) * 0.96).astype(np.uint8) for by in (2, 4)],
}


@pytest.mark.parametrize("quality", [92, 30])
@pytest.mark.parametrize("kind", HONEST)
def test_correct_levels_are_kept_however_they_were_made(make_slide, picture, kind, quality):
    levels = HONEST[kind](np.ascontiguousarray(picture[:2001, :2301]))
    path = make_slide("a.tif", [picture[:2001, :2301], *levels], mpp=0.25, quality=quality)
    with open_slide(path) as slide:
        assert len(slide.levels) == 1 + len(levels)
        assert slide.flags == ()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_correct_levels_of_real_tissue_are_kept_and_bad_ones_are_not(shared_dir, make_slide, name):
    with open_slide(shared_dir / "slides" / name, mpp=0.5) as slide:
        tissue = slide.read_region(0, 0, 0, 2200, 2048)
    for kind, make in HONEST.items():
        levels = make(tissue)
        with open_slide(make_slide("a.tif", [tissue, *levels], quality=30)) as slide:
            assert (len(slide.levels), slide.flags, kind) == (1 + len(levels), (), kind)
    for kind, make in BAD.items():
        with open_slide(make_slide("a.tif", [tissue, make(tissue)])) as slide:
            assert (len(slide.levels), slide.flags, kind) == (1, (FLAG,), kind)


@pytest.mark.parametrize("value", [243, 0])
def test_a_blank_slide_is_not_damaged(make_slide, value):
    blank = np.full((1500, 1200, 3), value, np.uint8)
    with open_slide(make_slide("a.tif", [blank, halved(blank)])) as slide:
        assert slide.flags == ()


def test_a_small_biopsy_on_a_large_glass_is_found_although_the_small_levels_are_blank(make_slide):
    glass = np.full((3000, 3000, 3), 243, np.uint8)
    glass[1900:2300, 200:600] = stained(400, 400)
    blank = [np.full((side, side, 3), 243, np.uint8) for side in (750, 188)]
    right, wrong = make_slide("r.tif", [glass], mpp=0.5), make_slide("w.tif", [glass, *blank], mpp=0.5)
    assert np.array_equal(tiles_of(right)[0].xy, tiles_of(wrong)[0].xy)


def test_synthetic_slides_keep_all_their_levels(tmp_path):
    generate(tmp_path, 1, seed=3)
    slides = sorted(tmp_path.rglob("*.tif*"))
    assert slides
    for path in slides:
        with open_slide(path) as slide:
            assert slide.flags == ()
            assert len(slide.levels) == len(slide._reader.levels)


def test_real_slides_keep_all_their_levels(shared_dir):
    for name in ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "PIT_06_00633_01.tiff"):
        with open_slide(shared_dir / "slides" / name, mpp=0.5) as slide:
            assert slide.flags == ()
            assert len(slide.levels) == len(slide._reader.levels)


def test_thousands_of_pages_are_not_read_one_by_one(make_slide, picture, monkeypatch):
    """Counts the levels read, because the time that a machine takes proves nothing."""
    pages = [np.full((64, 64, 3), 200, np.uint8)] * 500
    path = make_slide("a.tif", [picture[:900, :900], *pages], mpp=0.5)
    looked_at = set()
    read = OpenSlideImage.read

    def noting(self, x, y, level, *size):
        looked_at.add(level)
        return read(self, x, y, level, *size)

    monkeypatch.setattr(OpenSlideImage, "read", noting)
    with open_slide(path) as slide:
        assert len(slide.levels) == 1
        assert slide.flags == (FLAG,)
        assert len(plan_grid(slide, TilingSettings())) > 0
    assert len(looked_at) <= 64


class Broken:
    """A reader that cannot read one level."""

    def __init__(self, picture, broken):
        self.images, self.broken = [picture, halved(picture), halved(picture, 2)], broken

    @property
    def levels(self):
        return [Level(i.shape[1::-1], float(2**n), n) for n, i in enumerate(self.images)]

    def read(self, x, y, level, width, height):
        if level == self.broken:
            raise InvalidInputError("slide-read-failed", "It is broken.")
        by, image = 2**level, self.images[level]
        out = np.full((height, width, 3), 255, np.uint8)
        left, top = round(x / by), round(y / by)
        part = image[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
        at = (max(0, -top), max(0, -left))
        out[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
        return out

    def is_whole(self, x, y, level, width, height):
        return True


class Marked(Broken):
    """A reader whose level 0 is half damaged: white, and known to be."""

    def read(self, x, y, level, width, height):
        out = super().read(x, y, level, width, height)
        out[:, max(0, 1150 - x) if level == 0 else width :] = 255
        return out

    def is_whole(self, x, y, level, width, height):
        return level > 0 or x + width <= 1150


def test_damage_in_level_0_does_not_count_against_the_others(picture):
    pixels = Marked(picture, None)
    assert believed_levels(pixels, pixels.levels).wrong == ()


@pytest.mark.parametrize(("broken", "kept"), [(None, (0, 1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_level_that_cannot_be_read_is_left_out(picture, broken, kept):
    pixels = Broken(picture, broken)
    found = believed_levels(pixels, pixels.levels)
    assert found.kept == kept
    assert found.wrong == (() if broken is None else (broken,))


def test_all_cases_are_answered_right(shared_dir):
    cases = shared_dir / "cases"
    right = tiles_of(cases / "padded-pyramid-silent" / "right.tif")
    found = tiles_of(cases / "padded-pyramid-silent" / "padded.tif")
    assert np.array_equal(found[0].xy, right[0].xy)
    assert np.array_equal(found[1], right[1])
    assert (FLAG in found[3], FLAG in right[3]) == (True, False)
    for name in ("padded-pyramid-refused/padded.tif", "label-as-level/label.tif"):
        grid, _, flags, _ = tiles_of(cases / name)
        assert len(grid) > 0
        assert flags == (FLAG,)


def test_the_overview_of_a_huge_slide_of_one_level_is_read_in_pieces(make_slide, picture):
    """No read for the tissue mask or the thumbnail may be as large as the slide."""
    with open_slide(make_slide("a.tif", [np.tile(picture, (3, 3, 1))], mpp=0.25)) as slide:
        sizes, read = [], slide._reader.read

        def noting(x, y, level, width, height):
            sizes.append(width * height)
            return read(x, y, level, width, height)

        slide._reader.read = noting
        assert slide.tissue_map.tissue.any()
        assert slide.thumbnail(512).any()
    assert max(sizes) <= 2048 * 2048 < slide.size[0] * slide.size[1] / 8

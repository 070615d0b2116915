"""Opening a slide: what it states, whose scale is believed, and what it never reveals."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from tiff_pyramid import halved, write_pyramid

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import open_slide

APERIO = "Aperio Image Library v1.0\n100x100 [0,0 100x100] (256x256) JPEG Q=90|{}ScanScope ID = SS123"


def refusal(*args, **kwargs) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        open_slide(*args, **kwargs)
    return caught.value


def test_says_size_levels_scale_and_format(slide_file):
    with open_slide(slide_file) as slide:
        assert slide.slide_id == "sound"
        assert slide.size == (2300, 2048)
        assert [level.size for level in slide.levels] == [(2300, 2048), (1150, 1024), (575, 512)]
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert slide.mpp == pytest.approx(0.25, rel=1e-3)
        assert (slide.mpp_source, slide.vendor, slide.scanner) == ("file", "generic-tiff", None)


def test_reads_what_was_written(slide_file, picture):
    with open_slide(slide_file) as slide:
        region = slide.read_region(500, 600, 0, 300, 200)
    assert region.shape == (200, 300, 3)
    assert region.dtype == np.uint8
    assert np.abs(region.astype(int) - picture[600:800, 500:800]).mean() < 4


def test_outside_the_slide_is_white(slide_file):
    with open_slide(slide_file) as slide:
        region = slide.read_region(2290, 2040, 0, 20, 20)
    assert (region[10:] == 255).all()
    assert (region[:, 12:] == 255).all()
    assert (region[:6, :6] < 255).any()


def test_tiles_that_the_scanner_left_out_are_white(make_slide, picture):
    with open_slide(make_slide("holes.tif", [picture], blank_tiles=frozenset({0, 10}))) as slide:
        assert (slide.read_region(0, 0, 0, 256, 256) == 255).all()


def test_thumbnail_keeps_the_shape_of_the_slide(slide_file, picture):
    with open_slide(slide_file) as slide:
        small = slide.thumbnail(64)
        assert small.shape == (57, 64, 3)
        assert np.abs(small.mean((0, 1)) - picture.mean((0, 1))).max() < 3


def test_ids_are_safe_as_folder_names(tmp_path, slide_file):
    wild = shutil.copy(slide_file, tmp_path / "S 1;rm -rf é..tif")
    with open_slide(wild) as slide:
        assert slide.slide_id == "S_1_rm_-rf-cb6489f0"


class TestContentId:
    def test_is_the_same_for_the_same_bytes_under_any_name(self, tmp_path, slide_file):
        copy = shutil.copy(slide_file, tmp_path / "other.tif")
        with open_slide(slide_file) as one, open_slide(copy, mpp=0.5) as two:
            assert one.content_id == two.content_id
            assert len(one.content_id) == 64

    def test_changes_with_any_pixel_byte(self, tmp_path, slide_file):
        data = bytearray(slide_file.read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "sound.tif").write_bytes(data)
        with open_slide(slide_file) as one, open_slide(tmp_path / "sound.tif") as two:
            assert one.content_id != two.content_id

    def test_of_a_vanished_file_is_a_clear_error(self, tmp_path, slide_file):
        copy = tmp_path / "gone.tif"
        shutil.copy(slide_file, copy)
        with open_slide(copy) as slide:
            copy.unlink()
            with pytest.raises(InvalidInputError) as caught:
                _ = slide.content_id
        assert caught.value.code == "slide-unreadable"


class TestScale:
    def test_stated_beats_sidecar_beats_file(self, tmp_path, slide_file):
        copy = tmp_path / "a.tif"
        shutil.copy(slide_file, copy)
        (tmp_path / "a.tif.json").write_text('{"mpp": 0.3}')
        with open_slide(copy, mpp=0.4) as slide:
            assert (slide.mpp, slide.mpp_source) == (0.4, "stated")
        with open_slide(copy) as slide:
            assert (slide.mpp, slide.mpp_source) == (0.3, "sidecar")

    @pytest.mark.parametrize("name", ["a.tif.json", "a.json"])
    def test_a_sidecar_replaces_an_implausible_scale(self, tmp_path, make_slide, picture, name):
        path = make_slide("a.tif", [picture], mpp=None, dpi=72)
        (tmp_path / name).write_text(json.dumps({"mpp": 0.26}))
        with open_slide(path) as slide:
            assert (slide.mpp, slide.mpp_source) == (0.26, "sidecar")

    def test_a_print_resolution_is_refused_with_its_value_and_three_remedies(self, make_slide, picture):
        error = refusal(make_slide("a.tif", [picture], mpp=None, dpi=72))
        assert error.code == "slide-mpp-unknown"
        assert "352.78" in error.message
        assert "--mpp" in error.hint
        assert "a.tif.json" in error.hint
        assert "per-scanner default" in error.hint

    def test_a_file_that_states_no_scale_is_refused(self, make_slide, picture):
        error = refusal(make_slide("a.tif", [picture], mpp=None))
        assert error.code == "slide-mpp-unknown"
        assert "does not say" in error.message

    def test_a_scanner_default_replaces_only_a_missing_scale(self, make_slide, picture, slide_file):
        silent = make_slide("a.svs", [picture], mpp=None, description=APERIO.format(""))
        with open_slide(silent, scanner_mpp={"ss123": 0.252}) as slide:
            assert (slide.mpp, slide.mpp_source, slide.scanner) == (0.252, "scanner-default", "SS123")
        with open_slide(silent, scanner_mpp={"Aperio": 0.5}) as slide:
            assert (slide.mpp, slide.mpp_source) == (0.5, "scanner-default")
        with open_slide(slide_file, scanner_mpp={"generic-tiff": 0.5}) as slide:
            assert slide.mpp_source == "file"

    def test_the_scanners_own_mpp_is_believed(self, make_slide, picture):
        path = make_slide("a.svs", [picture], mpp=None, description=APERIO.format("MPP = 0.2525|"))
        with open_slide(path) as slide:
            assert (slide.mpp, slide.mpp_source) == (0.2525, "file")

    @pytest.mark.parametrize("value", [0, -1, 0.01, 352.78, float("nan"), float("inf")])
    def test_an_implausible_statement_is_refused(self, slide_file, value):
        assert refusal(slide_file, mpp=value).code == "slide-mpp-implausible"

    def test_an_implausible_default_is_refused(self, make_slide, picture):
        path = make_slide("a.tif", [picture], mpp=None)
        assert refusal(path, scanner_mpp={"generic-tiff": 40}).code == "slide-mpp-implausible"

    @pytest.mark.parametrize("text", ["", "{", '{"mpp": "0.25"}', '{"mpp": 352.78}', '{"mpp": true}', "\xff"])
    def test_a_broken_sidecar_is_refused_not_skipped(self, tmp_path, slide_file, text):
        copy = tmp_path / "a.tif"
        shutil.copy(slide_file, copy)
        (tmp_path / "a.tif.json").write_bytes(text.encode("latin-1"))
        assert refusal(copy).code == "slide-sidecar-invalid"

    def test_json_about_other_things_is_not_a_sidecar(self, tmp_path, slide_file):
        copy = tmp_path / "a.tif"
        shutil.copy(slide_file, copy)
        (tmp_path / "a.json").write_text('{"organ": "breast"}')
        with open_slide(copy) as slide:
            assert slide.mpp_source == "file"


class TestPrivacy:
    """Label and macro pictures, and names written into a file, cannot be obtained from an open slide."""

    def test_a_planted_label_appears_nowhere(self, tmp_path, picture):
        label = np.full((200, 300, 3), (255, 0, 255), np.uint8)
        described = APERIO.format("MPP = 0.25|User = Jane Doe|Filename = Doe-Jane|")
        path = tmp_path / "a.svs"
        write_pyramid(
            path, [picture, halved(picture)], description=described, strips=[picture[:90, :90], label]
        )
        with open_slide(path) as slide:
            assert slide.vendor == "aperio"
            public = [name for name in dir(slide) if not name.startswith("_")]
            assert not [
                name for name in public if any(w in name for w in ("assoc", "label", "macro", "propert"))
            ]
            for shown in (slide.overview[0], slide.thumbnail(500)):
                assert not (np.abs(shown.astype(int) - (255, 0, 255)).sum(2) < 60).any()
            kept = json.dumps(
                [vars(slide)[name] for name in vars(slide)],
                default=lambda thing: vars(thing) if hasattr(thing, "__dict__") else repr(thing),
            )
        assert "Doe" not in kept


def test_refusals_survive_pickling(tmp_path):
    error = refusal(tmp_path / "no.svs")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.hint) == (error.code, error.message, error.hint)

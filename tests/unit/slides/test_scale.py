"""Whose scale is believed where a file, its OME-XML, a sidecar and a caller differ, and what is flagged."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from stained_picture import stained
from tiff_pyramid import write_pyramid

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, assess_quality, open_slide, plan_grid
from histgen_lib.slides.metadata import ome_scale

PICTURE = stained(768, 768)
CONTRADICTED, OBLONG, DOUBTFUL = "scale-contradicted", "pixels-not-square", "scale-doubtful"
APERIO = "Aperio Image Library v12\r\n768x768 (256x256) JPEG/RGB|AppMag = {}|MPP = {}"
OME = '<?xml version="1.0"?><OME xmlns="x"><Image><Pixels SizeX="768" SizeY="768" {}/></Image></OME>'


@pytest.fixture
def slide_at(tmp_path):
    def write(mpp=None, **how):
        return write_pyramid(tmp_path / "a.tif", [PICTURE], mpp=mpp, **how)

    return write


def refusal(path, **how) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        open_slide(path, **how)
    return caught.value


class TestContradiction:
    @pytest.mark.parametrize(
        ("in_file", "mpp", "flags"),
        [
            (0.25, 0.25, ()),
            (0.25, 0.29, ()),
            (0.25, 0.21, ()),
            (0.25, 0.31, (CONTRADICTED,)),
            (0.25, 0.19, (CONTRADICTED,)),
            (0.25, 0.5, (CONTRADICTED,)),
            (0.499, 0.25, (CONTRADICTED,)),
        ],
    )
    def test_a_scale_more_than_a_fifth_off_the_files_own_is_flagged(self, slide_at, in_file, mpp, flags):
        with open_slide(slide_at(in_file), mpp=mpp) as slide:
            assert (slide.mpp, slide.mpp_source) == (mpp, "stated")
            assert slide.file_mpp == pytest.approx(in_file, rel=1e-3)
            assert slide.flags == flags
            raised = assess_quality(slide, plan_grid(slide, TilingSettings(mpp=mpp))).flags
            assert (CONTRADICTED in raised) == bool(flags)

    def test_a_sidecar_that_contradicts_the_file_is_flagged_too(self, slide_at):
        path = slide_at(0.25)
        path.with_suffix(".json").write_text('{"mpp": 0.5}')
        with open_slide(path) as slide:
            assert (slide.mpp, slide.mpp_source, slide.flags) == (0.5, "sidecar", (CONTRADICTED,))
            assert slide.file_mpp == pytest.approx(0.25, rel=1e-3)

    @pytest.mark.parametrize(
        ("description", "tags", "flags"),
        [
            (APERIO.format(40, 0.25), None, ()),
            (APERIO.format(40, 0.2633), None, ()),
            (APERIO.format(20, 0.499), None, ()),
            (APERIO.format(40, 0.5), None, (DOUBTFUL,)),
            (APERIO.format(20, 0.25), None, (DOUBTFUL,)),
            (APERIO.format(0, 0.25), None, ()),
            (APERIO.format("x", 0.25), None, ()),
            (OME.format('PhysicalSizeX="0.25" PhysicalSizeY="0.25"'), 0.25, ()),
            (OME.format('PhysicalSizeX="0.25" PhysicalSizeY="0.25"'), 0.5, (DOUBTFUL,)),
            (OME.format('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'), 0.5, ()),
            (OME.format('PhysicalSizeX="352" PhysicalSizeY="352"'), 0.5, ()),
        ],
    )
    def test_a_file_that_contradicts_its_own_scale_is_flagged(self, slide_at, description, tags, flags):
        path = slide_at(tags, description=description)
        with open_slide(path) as slide:
            assert (slide.mpp_source, slide.flags) == ("file", flags)
        with open_slide(path, mpp=slide.mpp) as slide:
            assert slide.flags == ()  # a person has decided

    def test_a_print_resolution_is_not_a_contradiction(self, slide_at):
        """It is kept beside the scale in use, but is not taken for a scale."""
        with open_slide(slide_at(dpi=72), mpp=0.5) as slide:
            assert slide.flags == ()
            assert slide.file_mpp == pytest.approx(352.78, rel=1e-3)

    def test_there_is_no_second_value_if_the_file_itself_is_believed_or_silent(self, slide_at):
        with open_slide(slide_at(0.25)) as slide:
            assert slide.file_mpp is None
        with open_slide(slide_at(), mpp=0.25) as slide:
            assert slide.file_mpp is None


class TestPlausible:
    @pytest.mark.parametrize("value", [0.05, 0.025, 0.08, 5.1, 50])
    def test_a_scale_that_no_scanner_has_is_refused_in_a_file_with_a_remedy(self, slide_at, value):
        found = refusal(slide_at(value))
        assert (found.code, f"{value:.2f}"[:3] in found.message) == ("slide-mpp-unknown", True)
        assert "cannot be true" in found.message
        assert "--mpp" in found.hint

    @pytest.mark.parametrize("value", [0.05, 0.09, 5.1])
    def test_and_as_a_stated_value_and_in_a_sidecar(self, slide_at, value):
        path = slide_at(0.25)
        assert refusal(path, mpp=value).code == "slide-mpp-implausible"
        path.with_suffix(".json").write_text(json.dumps({"mpp": value}))
        assert refusal(path).code == "slide-sidecar-invalid"

    @pytest.mark.parametrize("value", [0.1, 0.11, 0.25, 1, 4])
    def test_scales_that_scanners_have_are_believed(self, slide_at, value):
        with open_slide(slide_at(value)) as slide:
            assert slide.mpp == pytest.approx(value, rel=2e-3)


class TestSquare:
    def oblong(self, tmp_path, x, y):
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path,
            PICTURE,
            photometric="rgb",
            tile=(256, 256),
            resolution=(1e4 / x, 1e4 / y),
            resolutionunit="CENTIMETER",
        )
        return path

    def test_oblong_pixels_are_refused_with_their_sides(self, tmp_path):
        found = refusal(self.oblong(tmp_path, 0.25, 0.5))
        assert (found.code, "not square" in found.message) == ("slide-not-square", True)
        assert "0.25 × 0.5" in found.message

    def test_a_scanner_default_does_not_make_them_square(self, tmp_path):
        found = refusal(self.oblong(tmp_path, 0.25, 0.5), scanner_mpp={"generic-tiff": 0.5})
        assert found.code == "slide-not-square"

    def test_a_stated_scale_overrides_them_and_is_flagged(self, tmp_path):
        with open_slide(self.oblong(tmp_path, 0.5, 0.6), mpp=0.55) as slide:
            assert slide.flags == (OBLONG,)
        with open_slide(self.oblong(tmp_path, 0.25, 0.5), mpp=0.25) as slide:
            assert slide.flags == (CONTRADICTED, OBLONG)


class TestOme:
    @pytest.mark.parametrize(
        ("attributes", "mpp"),
        [
            ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
            ('PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"', 0.25),
            ('PhysicalSizeX="0.25" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.25"', 0.25),
            ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="250" PhysicalSizeYUnit="nm"', 0.25),
            (
                'PhysicalSizeX="0.0005" PhysicalSizeXUnit="mm" PhysicalSizeY=".0005" PhysicalSizeYUnit="mm"',
                0.5,
            ),
            ('PhysicalSizeX="5e-5" PhysicalSizeXUnit="cm" PhysicalSizeY="0.5"', 0.5),
            ("PhysicalSizeX='0.25' PhysicalSizeY='0.25'", 0.25),
            ('PhysicalSizeX="0.25"', 0.25),
        ],
    )
    @pytest.mark.parametrize("dpi", [None, 72])
    def test_is_read_with_its_units_if_the_tags_state_nothing_believable(
        self, slide_at, attributes, mpp, dpi
    ):
        with open_slide(slide_at(dpi=dpi, description=OME.format(attributes))) as slide:
            assert (slide.mpp, slide.mpp_source) == (pytest.approx(mpp), "file")

    @pytest.mark.parametrize(
        "attributes",
        [
            "",
            'PhysicalSizeX="0.25" PhysicalSizeXUnit="pixel"',
            'PhysicalSizeX="0.25" PhysicalSizeXUnit="reference frame"',
            'PhysicalSizeX="abc"',
            'PhysicalSizeX="25"',
        ],
    )
    def test_an_unbelievable_length_counts_as_none(self, slide_at, attributes):
        assert refusal(slide_at(description=OME.format(attributes))).code == "slide-mpp-unknown"

    def test_plausible_tags_come_first(self, slide_at):
        with open_slide(slide_at(0.5, description=OME.format('PhysicalSizeX="0.25"'))) as slide:
            assert slide.mpp == pytest.approx(0.5, rel=1e-3)

    def test_it_counts_as_the_files_own_statement(self, slide_at):
        path = slide_at(description=OME.format('PhysicalSizeX="0.25" PhysicalSizeY="0.25"'))
        with open_slide(path, mpp=0.5) as slide:
            assert (slide.file_mpp, slide.flags) == (0.25, (CONTRADICTED,))

    def test_of_several_images_the_one_of_the_same_size_counts(self):
        text = "<OME>{}{}</OME>".format(
            '<Pixels SizeX="300" SizeY="200" PhysicalSizeX="9"/>',
            '<Pixels SizeX="768" SizeY="768" PhysicalSizeX="0.25" PhysicalSizeY="0.25"/>',
        )
        assert ome_scale(text, (768, 768)) == ("0.25", "0.25")

    def test_as_tifffile_writes_it(self, tmp_path):
        path = tmp_path / "a.ome.tif"
        units = {f"PhysicalSize{axis}": 250 for axis in "XY"} | {
            f"PhysicalSize{axis}Unit": "nm" for axis in "XY"
        }
        tifffile.imwrite(path, PICTURE, photometric="rgb", tile=(256, 256), metadata={"axes": "YXS"} | units)
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(0.25)

    @pytest.mark.parametrize(
        "text", ["", "<OME>", "<OME><Pixels " * 9, "<OME>" + "<Pixels " + "x" * 10**6, "JPEG"]
    )
    def test_other_descriptions_state_nothing(self, text):
        assert ome_scale(text, (9, 9)) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_sidecar_is_read_in_whatever_encoding_an_editor_saved_it(slide_at, encoding):
    path = slide_at(dpi=72)
    path.with_suffix(".json").write_bytes('{"mpp": 0.5, "note": "µ"}'.encode(encoding))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "sidecar")


def test_all_cases_are_answered_right(shared_dir, tmp_path):
    cases = shared_dir / "cases"
    found = refusal(cases / "mpp-tenfold" / "tenfold.tif")
    assert (found.code, "0.05" in found.message, "--mpp" in found.hint) == ("slide-mpp-unknown", True, True)
    shutil.copytree(cases / "sidecar-bom", tmp_path / "bom")
    with open_slide(tmp_path / "bom" / "s.tif") as slide:
        assert slide.mpp_source == "sidecar"
        assert np.isfinite(slide.mpp)

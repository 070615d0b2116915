"""The table of a report's files: which there are, in which order, and what each of them holds."""

from __future__ import annotations

from io import BytesIO

from handmade_draft import make_draft
from PIL import Image

from histgen_lib.reports.record import CaseSlide
from histgen_lib.reports.renderers import RENDERINGS, file_names, render
from histgen_lib.reports.renderers.draft_json import to_json
from histgen_lib.reports.renderers.html import to_html
from histgen_lib.reports.renderers.text import to_text

STORED = ("thumbnail.webp", "heatmap.webp", "draft.txt", "draft.html", "draft.json")
"""What versions before this one stored, in their order."""


def case_draft():
    one = make_draft()
    slides = tuple(
        CaseSlide(slide_id=name, bag_digest="ab" * 32, slide=one.provenance.slide, quality=one.quality)
        for name in ("a", "b")
    )
    return make_draft(slide_id="C", case_id="C", slides=slides)


def test_a_report_of_one_slide_has_these_files_draft_json_last(draft, pictures):
    files = render(draft, [pictures])

    assert tuple(one.name for one in RENDERINGS if not one.needs) == STORED
    assert tuple(file.name for file in files) == tuple(file_names(draft)) == STORED
    assert [file.media_type for file in files] == [
        "image/webp",
        "image/webp",
        "text/plain; charset=utf-8",
        "text/html; charset=utf-8",
        "application/json",
    ]


def test_each_file_is_what_its_renderer_makes(draft, pictures):
    held = {file.name: file.data for file in render(draft, [pictures])}

    assert held["draft.json"] == to_json(draft)
    assert held["draft.txt"] == to_text(draft).encode()
    assert held["draft.html"] == to_html(draft, pictures).encode()
    assert held["thumbnail.webp"] == pictures.thumbnail
    assert Image.open(BytesIO(held["heatmap.webp"])).mode == "RGBA"


def test_the_pictures_of_a_case_lie_in_a_folder_for_each_slide(pictures):
    case = case_draft()
    names = [file.name for file in render(case, [pictures, pictures])]

    assert names == file_names(case)
    assert sorted(names) == sorted(
        [f"{slide}/{name}" for slide in "ab" for name in STORED[:2]] + list(STORED[2:])
    )


def test_the_files_of_the_slides_can_be_left_out(draft, pictures):
    assert [file.name for file in render(draft, [pictures], slide_files=False)] == list(STORED[2:])

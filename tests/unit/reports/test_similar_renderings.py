"""What a draft says of unsupported lines and similar cases: in its record, on its page, as text."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny_model
from handmade_draft import make_draft, strange
from PIL import Image
from similar_cases import HERE, THERE, answer, checked_draft, similar_case

from histgen_lib.catalogue.integrity import is_readable
from histgen_lib.reports.notices import UNSUPPORTED, similar_words, support_words, unsupported
from histgen_lib.reports.pictures import (
    PAIR_PX,
    PairPictures,
    Square,
    crop,
    pair_numbers,
    pair_squares,
    read_square,
    thumbnail_webp,
)
from histgen_lib.reports.record import CaseSlide, SimilarPair
from histgen_lib.reports.renderers import file_names, render
from histgen_lib.reports.renderers.draft_json import from_json, to_json
from histgen_lib.reports.renderers.html import to_html
from histgen_lib.reports.renderers.text import to_text
from histgen_lib.slides import open_slide

RNG = np.random.default_rng(1)
HERE_PX, THERE_PX = (RNG.integers(0, 255, (PAIR_PX, PAIR_PX, 3), dtype=np.uint8) for _ in range(2))


def flat(text: str) -> str:
    return " ".join(text.split())


def page_of(draft, pictures, pair: PairPictures | None = None) -> str:
    pairs = {} if pair is None else dict.fromkeys(pair_numbers(draft), pair)
    return to_html(draft, replace(pictures, pairs=pairs))


# -- the record


def test_a_draft_without_either_has_the_bytes_it_always_had(draft):
    """Readers of before refuse fields that they do not know."""
    content = json.loads(to_json(draft))

    assert "similar" not in content
    assert all("support" not in sentence for sentence in content["sentences"])
    assert from_json(to_json(draft)).similar is None
    assert file_names(draft)[0] == "thumbnail.webp"


@pytest.mark.parametrize("case_id", [None, "C"])
def test_both_survive_the_round_trip(case_id):
    one = make_draft()
    slides = () if case_id is None else (
        CaseSlide(slide_id="a", bag_digest="ab" * 32, slide=one.provenance.slide, quality=one.quality),
    )  # fmt: skip
    pair = SimilarPair(here=HERE, here_slide_id=case_id and "a", there=THERE, similarity=0.5)
    similar = answer(similar_case(case_id="D", pairs=(pair,)), similar_case(mpp=None, pairs=()))
    draft = checked_draft(similar=similar, case_id=case_id, slides=slides)
    data = to_json(draft)

    assert from_json(data) == draft
    assert to_json(from_json(data)) == data
    assert (b"here_slide_id" in data) == (case_id is not None)


def test_similar_json_is_the_first_file_and_holds_the_answer(pictures):
    draft = make_draft(similar=answer(similar_case()))
    first, *_, last = files = render(draft, [pictures])

    assert [file.name for file in files] == file_names(draft)
    assert (first.name, last.name) == ("similar.json", "draft.json")
    assert json.loads(first.data) == draft.similar.model_dump(mode="json")
    assert is_readable("x/similar.json", first.data)
    assert not is_readable("x/similar.json", first.data[:-9])


# -- lines that no region supports


def test_a_flagged_line_is_marked_with_how_often_such_flags_were_right(pictures):
    draft = checked_draft()
    page, text = to_html(draft, pictures), flat(to_text(draft))

    for words in (UNSUPPORTED, "62 of 80 wrong lines were flagged", "3 of 120 right ones by mistake"):
        assert words in page
        assert words in text
    assert page.count('class="flagged"') == 1
    assert "<dt>Not supported</dt><dd>1 of 3</dd>" in page


def test_a_supported_line_and_an_unchecked_one_are_not_marked(draft, pictures):
    supported = checked_draft(score=0.31)

    for one in (draft, supported):
        assert unsupported(one) == []
        assert UNSUPPORTED not in to_html(one, pictures)
        assert UNSUPPORTED not in to_text(one)
    assert support_words(supported.sentences[-1]) == ""


def test_a_flag_changes_neither_text_nor_confidence_nor_abstention(draft):
    flagged = json.loads(to_json(checked_draft()))
    for sentence in flagged["sentences"]:
        sentence.pop("support", None)

    assert flagged == json.loads(to_json(draft))


def test_nothing_is_flagged_where_the_check_means_nothing(pictures):
    foreign = checked_draft(**strange())

    assert UNSUPPORTED not in to_html(foreign, pictures)
    assert UNSUPPORTED not in to_text(foreign)


# -- similar cases


def test_the_page_shows_each_region_beside_its_like(pictures):
    draft = make_draft(similar=answer(similar_case(), similar_case("next", case_id="C-7")))
    page = page_of(draft, pictures, PairPictures(HERE_PX, THERE_PX))

    assert page.count('<figure class="side">') == 4
    assert page.count("data:image/webp") >= 4
    assert "Region of slide other" in page
    assert "case C-7, slide next" in page
    assert "Each picture is 200 µm wide" in page, "the larger region is 400 px of 0.5 µm"
    assert "It is not a probability" in page
    assert "other cases" in page
    assert "<b>carcinoma</b>" not in page, "a report's words are no markup"
    assert page == page_of(draft, pictures, PairPictures(HERE_PX, THERE_PX))


def test_a_pair_without_pictures_says_so(pictures):
    draft = make_draft(similar=answer(similar_case()))

    assert page_of(draft, pictures, PairPictures(HERE_PX, None)).count("no picture</span>") == 1
    assert page_of(draft, pictures).count("no picture</span>") == 2


def test_the_text_lists_the_cases(draft):
    text = to_text(make_draft(similar=answer(similar_case(), similar_case("b", diagnosis="", case_id="C"))))

    assert "0.87 Breast, Ductal <b>carcinoma</b> in situ (slide other)" in text
    assert "0.87 Breast, Breast, excision: (case C)" in text
    assert "Similar" not in to_text(draft)


@pytest.mark.parametrize("why", ["away", "slow", "other-model", "answered"])
def test_a_draft_without_cases_says_why_in_one_line(pictures, why):
    draft = make_draft(similar=answer(answer=why, index_version=None))
    words = similar_words(draft.similar)

    assert words
    assert words in to_html(draft, pictures)
    assert words in flat(to_text(draft))


def test_a_lab_without_an_index_sees_nothing_of_it(draft, pictures):
    off = make_draft(similar=answer(answer="off", index_version=None))

    assert to_html(off, pictures) == to_html(draft, pictures)
    assert to_text(off) == to_text(draft)


# -- pictures


def test_both_pictures_of_a_pair_have_the_same_scale():
    pair = SimilarPair(here=HERE, there=THERE, similarity=0.9)
    here, there = pair_squares(pair, 0.25, 0.5)

    assert here.side * 0.25 == there.side * 0.5 == 200
    for square, region in ((here, HERE), (there, THERE)):
        assert square.x <= region.x
        assert square.y <= region.y
        assert square.x + square.side >= region.x + region.width
        assert square.y + square.side >= region.y + region.height


def test_without_a_scale_each_picture_shows_its_own_region():
    pair = SimilarPair(here=HERE, there=THERE, similarity=0.9)

    assert [square.side for square in pair_squares(pair, None, 0.5)] == [512, 400]


def test_a_square_is_cut_out_of_the_thumbnail_where_it_lies():
    """A slide of 2000 x 1000 px whose right half is black, and glass past its edges."""
    picture = np.full((500, 1000, 3), 200, np.uint8)
    picture[:, 500:] = 0
    thumbnail = thumbnail_webp(picture)
    left, right, beyond = (
        np.asarray(crop(thumbnail, (2000, 1000), square))
        for square in (Square(0, 0, 800), Square(1200, 0, 800), Square(-5000, 400, 400))
    )
    edge = crop(thumbnail, (2000, 1000), Square(0, 900, 200))

    assert left.shape == (PAIR_PX, PAIR_PX, 3)
    assert abs(left.mean() - 200) < 5
    assert right.mean() < 5
    assert (beyond == 255).all()
    assert abs(edge[:100].mean() - 200) < 5
    assert (edge[-100:] == 255).all()
    assert Image.fromarray(edge).size == (PAIR_PX, PAIR_PX)


def test_a_square_far_larger_than_a_slide_takes_no_more_memory_than_its_picture(tmp_path):
    """A small slide beside one whose regions are large: it is a spot in the middle of glass."""
    huge = Square(320 - 5_000_000, 320 - 5_000_000, 10_000_000)
    small = Square(320 - 640, 320 - 640, 1280)
    path = tiny_model.write_slide(tmp_path / "small.tif", side_px=640)
    with open_slide(path, mpp=0.5) as slide:
        thumbnail = thumbnail_webp(slide.thumbnail(640))
        for show in (partial(read_square, slide, thumbnail=None), partial(crop, thumbnail, slide.size)):
            assert (show(square=huge) == 255).mean() > 0.99
            shown = show(square=small)
            assert (shown[:79] == 255).all()
            assert (shown[:, -79:] == 255).all()
            whole = np.asarray(Image.fromarray(slide.thumbnail(640)).resize((160, 160)), float)
            assert np.corrcoef(shown[80:240, 80:240].ravel(), whole.ravel())[0, 1] > 0.9

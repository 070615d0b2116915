"""draft.txt and draft.html say what they must, in a form that is safe to open."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from handmade_draft import make_draft, strange

from histgen_lib.reports.notices import notices, percent
from histgen_lib.reports.pictures import HeatCells, Pictures, overall, tile_uri
from histgen_lib.reports.record import Abstention, CaseSlide, EvidenceCheck, OutOfDistribution, Quality
from histgen_lib.reports.renderers.html import css_string, to_html
from histgen_lib.reports.renderers.text import to_text

NOTICE = "AI-generated draft, not for clinical use"


class _Page(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def parse(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    return page


def test_text_starts_with_the_reason_when_the_slide_is_out_of_distribution(strange_draft):
    text = to_text(strange_draft)

    assert text.startswith("*** OUT OF DISTRIBUTION")
    assert NOTICE in text
    assert "Confidence" not in text, "a confidence means nothing on a foreign slide"
    assert strange_draft.text in text


def test_text_names_the_lines_to_check_first(draft):
    text = to_text(draft)

    assert text.startswith(NOTICE)
    assert "check first (41 %): Grade: 2" in text
    assert "pen marks" in text


def test_text_of_an_abstaining_draft_starts_with_that(draft):
    abstaining = make_draft(
        abstained=True, abstention=Abstention(reasons=("low-confidence",), threshold=0.97)
    )

    assert to_text(abstaining).startswith("*** THE MODEL ABSTAINS ***")


def test_a_model_that_cannot_check_the_domain_says_so():
    unchecked = make_draft(
        out_of_distribution=OutOfDistribution(flag=False, score=None, threshold=None, method="none")
    )

    assert "domain-unchecked" in [n.code for n in notices(unchecked)]


def test_the_page_is_self_contained(draft, pictures):
    html = to_html(draft, pictures)
    page = parse(html)

    assert not page.all("script")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert all(link["href"].startswith("data:") for link in page.all("link"))
    assert not re.search(r"https?://|@import|url\((?!data:)", html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_the_page_shows_the_notice_and_every_line(draft, pictures):
    page = parse(to_html(draft, pictures))

    assert page.text.count(NOTICE) >= 2
    assert "synthetic slides only" in page.text
    for line in ("Breast, excision:", "- Grade: 2"):
        assert line in page.text.replace("\n", " ")
    assert "41 %" in page.text
    assert "x 0, y 512 px (0.00 mm, 0.13 mm)" in page.text
    assert "75 %" in page.text


def test_report_text_cannot_inject_markup(draft, pictures):
    html = to_html(draft, pictures)

    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_page_is_accessible(draft, pictures):
    page = parse(to_html(draft, pictures))

    assert page.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.all("img"))
    assert page.all("title")
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_nobody_can_miss_an_out_of_distribution_page(strange_draft, pictures):
    page = parse(to_html(strange_draft, pictures))

    banners = [a for _, a in page.tags if a.get("data-notice")]
    assert banners[0]["data-notice"] == "out-of-distribution"
    assert banners[0]["role"] == "alert"
    assert page.all("body")[0]["class"] == "untrusted"
    assert "not valid" in page.text
    assert "41 %" not in page.text


def test_an_ordinary_page_has_no_alarm(draft, pictures):
    page = parse(to_html(draft, pictures))

    assert [a["data-notice"] for _, a in page.tags if a.get("data-notice")] == ["synthetic-model"]


def test_same_inputs_give_the_same_page(draft, pictures):
    assert to_html(draft, pictures) == to_html(draft, pictures)


def test_a_page_without_pixels_still_shows_where_the_tiles_lie(draft, pictures):
    bare = Pictures(thumbnail=None, xy=pictures.xy, span_px=pictures.span_px, weights=pictures.weights)
    page = parse(to_html(draft, bare))

    assert "no pixels" in page.text


def test_a_page_for_a_bag_without_places_says_so(pictures):
    provenance = make_draft().provenance
    slide = provenance.slide.model_copy(update={"size_px": None, "mpp": None, "content_id": None})
    sentences = tuple(s.model_copy(update={"evidence": ()}) for s in make_draft().sentences)
    draft = make_draft(provenance=provenance.model_copy(update={"slide": slide}), sentences=sentences)
    bare = Pictures(thumbnail=None, xy=pictures.xy * 0, span_px=float("nan"), weights=pictures.weights)

    assert "does not say where its tiles lie" in parse(to_html(draft, bare)).text


def test_an_out_of_distribution_slide_gets_no_low_confidence_notice_as_well():
    reasons = Abstention(reasons=("out-of-distribution", "low-confidence"), threshold=0.97)
    both = make_draft(**(strange() | {"abstention": reasons}))

    assert [n.code for n in notices(both)] == ["out-of-distribution", "synthetic-model"]


@pytest.mark.parametrize(("share", "words"), [(1.0, "100 %"), (0.9999, "99 %"), (0.29, "29 %"), (0.0, "0 %")])
def test_percent_never_rounds_up_to_certainty(share, words):
    assert percent(share) == words


RELIABLE = EvidenceCheck(field="grade", lines=50, hits=48, low=0.86, threshold=0.5, reliable=True)
UNRELIABLE = EvidenceCheck(field="grade", lines=9, hits=1, low=0.02, threshold=0.5, reliable=False)


def checked(check: EvidenceCheck):
    """Change the last line of the handmade draft: this was measured of its evidence."""
    *others, last = make_draft().sentences
    return make_draft(sentences=(*others, last.model_copy(update={"evidence_check": check})))


def tiles_of(page: _Page, line: str) -> list[str]:
    opened = [b["popovertarget"] for b in page.all("button") if b["class"].startswith("tile ")]
    return [zoom for zoom in opened if zoom.startswith(f"zoom-{line}-")]


def test_reliable_evidence_is_shown_with_its_figures(pictures):
    draft = checked(RELIABLE)
    page = parse(to_html(draft, pictures))

    assert tiles_of(page, "s3")
    assert "the strongest tile showed the stated finding on 48 of 50 measured slides." in page.text
    assert "Tiles not shown" not in to_text(draft)


def test_unreliable_evidence_is_hidden_with_a_reason(pictures):
    draft = checked(UNRELIABLE)
    page = parse(to_html(draft, pictures))
    why = "Tiles not shown: for such lines, the strongest tile showed the stated finding on only 1 of 9"

    assert tiles_of(page, "s1"), "other lines keep theirs"
    assert not tiles_of(page, "s3")
    assert "layer-s3" not in to_html(draft, pictures), "nor does the map show it"
    assert why in page.text
    assert why in to_text(draft).replace("\n", " ")
    assert draft.sentences[2].evidence, "the record keeps what the model looked at"


def test_unmeasured_evidence_is_mentioned_once(draft, pictures):
    words = "How often this model's evidence tiles show what its lines state has not been measured."

    assert parse(to_html(draft, pictures)).text.count(words) == 1
    assert words in to_text(draft).replace("\n", " ")


def test_the_map_of_all_lines_leaves_unreliable_evidence_out(pictures):
    weights = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32)

    assert overall(checked(RELIABLE), weights).tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert overall(checked(UNRELIABLE), weights).tolist() == [1, 0, 0]


def test_quality_says_what_was_checked_and_what_was_not(pictures):
    quality = Quality(checked=("focus", "ink"), not_checked=("folds", "bubbles"))
    draft = make_draft(quality=quality)
    for words in (parse(to_html(draft, pictures)).text, to_text(draft)):
        assert "Checked: focus, ink. Not checked: folds, bubbles." in words
    assert "No problems found." in parse(to_html(draft, pictures)).text


def test_a_draft_from_a_bag_does_not_claim_that_the_picture_is_sound(pictures):
    draft = make_draft(quality=Quality())
    page = parse(to_html(draft, pictures))

    assert "No problems found." not in page.text
    assert "The picture was not checked: only the features of its tiles were available." in page.text
    assert "The picture was not checked" in to_text(draft)


@pytest.mark.parametrize(
    ("area", "share", "words"),
    [
        (0.42, 0.031, "0.42 mm² of tissue (3 %) is not covered by any tile"),
        (0.004, 0.002, "Less than 0.01 mm² of tissue (less than 1 %) is not covered by any tile"),
        (0.0, 0.0, "Tiles cover all tissue that was found."),
    ],
)
def test_tissue_that_no_tile_covers_is_stated(pictures, area, share, words):
    draft = make_draft(quality=Quality(measures={"tissue_unread_mm2": area, "tissue_unread_fraction": share}))

    assert words in parse(to_html(draft, pictures)).text
    assert words in to_text(draft).replace("\n", " ")


def test_each_slide_of_a_case_states_its_tissue(pictures):
    one = make_draft()
    measures = {"tissue_unread_mm2": 0.5, "tissue_unread_fraction": 0.1}
    slides = tuple(
        CaseSlide(
            slide_id=name, bag_digest="d", slide=one.provenance.slide, quality=Quality(measures=measures)
        )
        for name in ("a", "b")
    )
    draft = make_draft(case_id="C1", slides=slides)

    assert "b: 0.50 mm² of tissue (10 %)" in parse(to_html(draft, pictures, pictures)).text


def test_a_confidence_that_was_never_calibrated_is_not_a_number(draft, pictures):
    lines = tuple(s.model_copy(update={"confidence": None, "uncertain": False}) for s in draft.sentences)
    bare = draft.model_copy(update={"confidence": None, "calibrated": False, "sentences": lines})
    page = parse(to_html(bare, pictures))

    assert "not-calibrated" in [n.code for n in notices(bare)]
    assert page.text.count("confidence not calibrated") == len(lines)
    assert not [a for _, a in page.tags if a.get("class") == "meter"]
    assert "calibrated probability" not in page.text
    assert to_text(bare).startswith("*** CONFIDENCE NOT CALIBRATED ***")
    assert "Confidence not calibrated" in to_text(bare)


def test_a_narrow_abstention_shows_enough_digits_to_make_sense(draft):
    reasons = Abstention(reasons=("low-confidence",), threshold=0.9999)
    narrow = draft.model_copy(update={"confidence": 0.9912, "abstained": True, "abstention": reasons})

    assert "99.12 %, below the 99.99 %" in notices(narrow)[0].body


def test_each_picture_of_a_tile_is_in_the_page_once(draft, pictures):
    html = to_html(draft, pictures)

    assert len(tiles_of(parse(html), "s1")) == len(tiles_of(parse(html), "s2")) == 1
    (pixels,) = pictures.tiles.values()
    assert html.count(tile_uri(pixels, max_px=256)) == 1


def test_a_name_cannot_break_out_of_the_styles(pictures):
    html = to_html(make_draft(slide_id='a"; } </style><script>x</script> é'), pictures)
    style = html.partition("<style>")[2].partition("</style>")[0]

    assert "<script>" not in html
    assert css_string('a"</style>') == '"a\\22 \\3c \\2f style\\3e "'
    assert style.count("@bottom-center") == 2, "the styles end where they should"


def test_a_heatmap_without_evidence_can_be_drawn():
    cells = HeatCells(np.array([[0, 0]], dtype=np.int32), 512.0, (1024, 512))

    assert cells.heatmap(np.zeros(1)).shape == (4, 8, 4)


def test_where_tiles_overlap_the_stronger_evidence_shows():
    cells = HeatCells(np.array([[0, 0], [256, 0], [9000, 9000]], dtype=np.int32), 512.0, (1024, 512))

    assert cells.paint(np.array([0.2, 0.9, 1.0]))[0].tolist() == [0.2, 0.2, 0.9, 0.9, 0.9, 0.9, 0, 0]

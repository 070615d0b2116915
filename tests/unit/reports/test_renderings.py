"""draft.txt and draft.html say what they must, in a form that is safe to open."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from handmade_draft import make_draft, strange

from histgen_lib.reports.notices import notices, percent
from histgen_lib.reports.pictures import HeatCells, Pictures
from histgen_lib.reports.record import Abstention, OutOfDistribution
from histgen_lib.reports.render_html import to_html
from histgen_lib.reports.render_text import to_text

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


def test_a_model_that_cannot_check_its_world_says_so():
    unchecked = make_draft(
        out_of_distribution=OutOfDistribution(flag=False, score=None, threshold=None, method="none")
    )

    assert "domain-unchecked" in [n.code for n in notices(unchecked)]


def test_page_needs_nothing_but_itself(draft, pictures):
    html = to_html(draft, pictures)
    page = parse(html)

    assert not page.all("script")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert all(link["href"].startswith("data:") for link in page.all("link"))
    assert not re.search(r"https?://|@import|url\((?!data:)", html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_page_carries_the_words_and_every_line(draft, pictures):
    page = parse(to_html(draft, pictures))

    assert page.text.count(NOTICE) >= 2
    assert "synthetic slides only" in page.text
    for line in ("Breast, excision:", "- Grade: 2"):
        assert line in page.text.replace("\n", " ")
    assert "41 %" in page.text
    assert "x 0, y 512" in page.text
    assert "75 %" in page.text


def test_report_text_cannot_smuggle_in_markup(draft, pictures):
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


def test_page_of_a_bag_without_pixels_still_shows_places(draft, pictures):
    bare = Pictures(thumbnail=None, xy=pictures.xy, span_px=pictures.span_px, weights=pictures.weights)
    page = parse(to_html(draft, bare))

    assert "no pixels" in page.text


def test_page_of_a_bag_without_places_says_so(pictures):
    provenance = make_draft().provenance
    slide = provenance.slide.model_copy(update={"size_px": None, "mpp": None, "content_id": None})
    sentences = tuple(s.model_copy(update={"evidence": ()}) for s in make_draft().sentences)
    draft = make_draft(provenance=provenance.model_copy(update={"slide": slide}), sentences=sentences)
    bare = Pictures(thumbnail=None, xy=pictures.xy * 0, span_px=float("nan"), weights=pictures.weights)

    assert "does not say where its tiles lie" in parse(to_html(draft, bare)).text


def test_a_foreign_and_doubted_slide_is_only_called_foreign():
    reasons = Abstention(reasons=("out-of-distribution", "low-confidence"), threshold=0.97)
    both = make_draft(**(strange() | {"abstention": reasons}))

    assert [n.code for n in notices(both)] == ["out-of-distribution", "synthetic-model"]


@pytest.mark.parametrize(("share", "words"), [(1.0, "100 %"), (0.9999, "99 %"), (0.29, "29 %"), (0.0, "0 %")])
def test_percent_never_rounds_up_to_certainty(share, words):
    assert percent(share) == words


def test_heatmap_of_no_evidence_is_drawn_all_the_same():
    cells = HeatCells(np.array([[0, 0]], dtype=np.int32), 512.0, (1024, 512))

    assert cells.heatmap(np.zeros(1)).shape == (4, 8, 4)


def test_where_tiles_overlap_the_stronger_evidence_shows():
    cells = HeatCells(np.array([[0, 0], [256, 0], [9000, 9000]], dtype=np.int32), 512.0, (1024, 512))

    assert cells.paint(np.array([0.2, 0.9, 1.0]))[0].tolist() == [0.2, 0.2, 0.9, 0.9, 0.9, 0.9, 0, 0]

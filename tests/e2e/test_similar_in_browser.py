"""Similar cases and flagged lines on draft.html in a real browser: on a screen, on a phone, on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from printed import A4, LETTER, Paper
from similar_lab import SimilarLab, checking_model, draft_in, page_in

pytestmark = pytest.mark.browser

SIZES = [(1280, 800), (900, 700), (390, 844), (320, 568)]
LONG = (
    "Breast, excision:\n  Invasive carcinoma of no special type\n" + "  - Comment: a longer sentence.\n" * 12
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Draft a slide whose lines no region supports, beside a case with a picture and one without."""
    folder = tmp_path_factory.mktemp("similar")
    model = checking_model(folder / "model", 1.0)
    other = SimilarLab.scanned(folder, model, "other", seed=3)
    other.lab.draft(other.ready)
    digest = draft_in(other.lab.store, "other").provenance.inputs_digest
    ours = SimilarLab.scanned(folder, model)
    entries = (
        ours.signed("other", 1, report_digest=digest, organ="Breast", diagnosis="Fibroadenoma", text=LONG),
        ours.signed(
            "a-slide-with-a-name-that-is-so-long-that-no-phone-is-as-wide-as-it-is", 2, owner="case/C"
        ),
    )
    ours.beside(*entries).draft(ours.ready)
    written = folder / "draft.html"
    written.write_text(page_in(ours.lab.store), encoding="utf-8")
    return written


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_region_stands_beside_its_like_at_every_width(browser, page, size):
    browser.open(page, width=size[0], height=size[1], phone=size[0] < 500)
    pairs = browser.js(
        "[...document.querySelectorAll('.pair')].map(p => [...p.querySelectorAll('.window')].map("
        "w => w.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom]))"
    )

    assert browser.complaints() == []
    assert browser.js("document.documentElement.scrollWidth") == size[0]
    assert len(pairs) == browser.js("document.querySelectorAll('.between').length") >= 2
    for here, there in pairs:
        assert here[2] < there[0], "side by side"
        assert here[1] == there[1]
        assert here[2] - here[0] == pytest.approx(there[2] - there[0], abs=1), "of one size"
        assert here[3] - here[1] == pytest.approx(here[2] - here[0], abs=1), "and square"
        assert here[2] - here[0] > 90, "large enough to look at"


def test_all_pictures_are_shown_and_the_rest_say_that_there_is_none(browser, page):
    browser.open(page)

    pairs, shown, missing = (
        browser.js(f"document.querySelectorAll('{which}').length")
        for which in (".pair", ".similar img", ".window .none")
    )
    assert browser.js("[...document.querySelectorAll('.similar img')].every(i => i.naturalWidth == 320)")
    assert shown > pairs > missing > 0, "every region here, and those there of the report that is stored"
    assert shown + missing == 2 * pairs


def test_each_region_is_outlined_inside_its_picture(browser, page):
    browser.open(page)
    inside = browser.js(
        "[...document.querySelectorAll('.region')].every(e => { const a = e.getBoundingClientRect(),"
        " b = e.parentElement.getBoundingClientRect(); return a.left >= b.left && a.top >= b.top"
        " && a.right <= b.right && a.bottom <= b.bottom && a.width > 0 && a.height > 0; })"
    )

    assert inside


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(browser, page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.open(page)
    faint = browser.faint()
    browser.call("Emulation.setEmulatedMedia", features=[])

    assert faint == []


def test_a_flagged_line_is_marked_where_it_stands(browser, page):
    browser.open(page)
    flagged = browser.js("[...document.querySelectorAll('.row')].every(r => r.querySelector('.flagged'))")
    width = browser.js("document.querySelector('.flagged').getBoundingClientRect().width")

    assert flagged
    assert width > 150
    assert "Not supported" in browser.js("document.querySelector('.facts').innerText")


@pytest.mark.parametrize("size", [A4, LETTER], ids=["A4", "Letter"])
def test_on_paper_a_case_is_whole_and_nothing_is_printed_over_anything(browser, page, size, tmp_path):
    browser.open(page)
    file = tmp_path / "draft.pdf"
    file.write_bytes(browser.pdf(*size))
    pages = Paper(file).pages
    on = [number for number, one in enumerate(pages) if "Fibroadenoma" in one.text]

    assert len(on) == 1
    assert "Invasive carcinoma of no special type" in pages[on[0]].text, "its report is on the same page"
    assert any("nothing in them was found on this slide" in one.text for one in pages)
    assert any("No region of the slide supports this." in one.text for one in pages)
    assert all(one.overprinted() == [] for one in pages)
    assert np.min([one.ink_mm() for one in pages]) > 5

"""draft.html in a real browser: on a screen, on a phone, by keyboard, on paper."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from chromium import Page, chromium
from cli_runs import histgen
from printed import A4, LETTER, Paper

from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.histgen.checkpoint import update_config

pytestmark = pytest.mark.browser

DESKTOP = {"width": 1280, "height": 800}
PHONES = [(390, 844), (320, 568), (844, 390), (568, 320)]
BELIEVED, DOUBTED = "Grade", "Necrosis"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def draft(tmp_path_factory) -> Path:
    """Write the page of a drawn slide, by the shipped model with figures of its own for the evidence."""
    out = tmp_path_factory.mktemp("page")
    model = Path(shutil.copytree(SHIPPED_MODEL, out / "model"))
    fields = {"grade": {"lines": 60, "hits": 59}, "necrosis": {"lines": 9, "hits": 1}}
    update_config(model, evidence={"threshold": 0.5, "fields": fields})
    assert histgen("synth", "--count", 1, "--seed", 777, "--split", "test", "--out", out / "world").code == 0
    (slide,) = (out / "world" / "slides").iterdir()
    assert histgen("report", slide, "--out", out, "--model", model).code == 0
    page = out / slide.stem / "draft.html"
    words = page.read_text(encoding="utf-8")
    assert f"{BELIEVED}: " in words, "this slide's draft has what the tests ask of it"
    assert f"{DOUBTED}: " in words
    return page


@pytest.fixture(scope="module")
def foreign(model_dir, slide_path, tmp_path_factory) -> Path:
    """Write the page of a slide that the model calls foreign."""
    out = tmp_path_factory.mktemp("foreign")
    model = Path(shutil.copytree(model_dir, out / "model"))
    tiny_model.set_thresholds(model, domain=1e-6)
    assert histgen("report", slide_path, "--out", out, "--model", model).code == 0
    return out / "sound" / "draft.html"


@pytest.fixture(scope="module", params=[A4, LETTER], ids=["A4", "Letter"])
def paper(request, browser, draft, tmp_path_factory) -> Paper:
    """Print the page, as a person does who changes nothing in the dialogue."""
    browser.open(draft, **DESKTOP)
    file = tmp_path_factory.mktemp("paper") / "draft.pdf"
    file.write_bytes(browser.pdf(*request.param))
    return Paper(file)


def _row(browser: Page, line: str) -> str:
    """Return the selector of the row of the line that begins so."""
    lines = browser.js("[...document.querySelectorAll('.row')].map(r => r.innerText)")
    return f"#row-s{next(n for n, text in enumerate(lines, 1) if text.startswith(f'- {line}: '))}"


def _layer(row: str) -> str:
    return "layer layer-" + row.removeprefix("#row-")


# -- on a screen


def test_the_page_opens_without_an_error_and_shows_every_picture(browser, draft):
    browser.open(draft, **DESKTOP)

    assert browser.complaints() == []
    assert browser.js("[...document.images].length") > 3
    assert browser.js("[...document.images].every(i => i.naturalWidth > 0)")
    decoded = (
        "(i => { const x = new Image(); x.src = i.href.baseVal; return x.decode().then(() => x.width); })"
    )
    sizes = browser.js(f"Promise.all([...document.querySelectorAll('image')].map({decoded}))")
    assert set(sizes) == {256}
    assert browser.js("[...document.querySelectorAll('.tile use')].every(u => u.getBBox().width == 256)")
    pixels = browser.pixels()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5000, "a page without its pictures has few colours"


def test_nobody_can_miss_that_a_slide_is_out_of_distribution(browser, foreign):
    """A large part of the first screen is red, and the reason comes first."""
    browser.open(foreign, width=1280, height=720)
    r, g, b = np.moveaxis(browser.pixels(), 2, 0)
    words = browser.js("document.body.innerText")

    assert ((r > 120) & (g < 60) & (b < 80)).mean() > 0.08
    assert words.index("Out of distribution: do not rely on this draft") < words.index("Draft, line by line")
    assert browser.complaints() == []


def test_pointing_at_a_line_highlights_only_its_evidence(browser, draft):
    browser.open(draft, **DESKTOP)
    assert browser.visible(".layer") == ["layer layer-all"]
    row = _row(browser, BELIEVED)
    browser.point(f"{row} .sentence")

    assert browser.visible(".layer") == [_layer(row)]


def test_a_line_whose_evidence_is_unreliable_shows_none_and_says_why(browser, draft):
    browser.open(draft, **DESKTOP)
    row = _row(browser, DOUBTED)
    browser.point(f"{row} .sentence")

    assert browser.js(f"document.querySelectorAll('{row} .tile').length") == 0
    assert browser.visible(".layer") == []
    text = browser.js(f"document.querySelector('{row}').innerText")
    assert "the strongest tile showed the stated finding on only 1 of 9 measured slides" in text


def test_an_enlarged_tile_does_not_cover_its_sentence(browser, draft):
    browser.open(draft, **DESKTOP)
    row = _row(browser, BELIEVED)
    browser.click(f"{row} .tile-B")
    zoom, sentence = browser.box(f"{row} .zoom:popover-open"), browser.box(f"{row} .statement")

    assert zoom[0] >= sentence[2], "it opens beside the draft, not on it"
    assert zoom[2] <= DESKTOP["width"]
    assert zoom[3] <= DESKTOP["height"]
    assert zoom[3] - zoom[1] > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["draft", "foreign"])
def test_all_text_has_enough_contrast(browser, which, scheme, request):
    """WCAG AA: 4.5 to 1, or 3 to 1 for large type."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.open(request.getfixturevalue(which), **DESKTOP)
    faint = browser.faint()
    browser.call("Emulation.setEmulatedMedia", features=[])

    assert faint == []


# -- by keyboard


def test_the_keyboard_highlights_the_slide_as_pointing_does(browser, draft):
    browser.open(draft, **DESKTOP)
    row = _row(browser, BELIEVED)
    number = int(row.removeprefix("#row-s"))
    tiles = browser.js("[...document.querySelectorAll('.row')].map(r => r.querySelectorAll('.tile').length)")
    browser.press("Tab", 1 + number + sum(tiles[: number - 1]))  # the link that skips, then lines and tiles

    assert browser.focused() == f"line-s{number}"
    assert browser.visible(".layer") == [_layer(row)]
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Tab")
    assert browser.focused() == "tile tile-A"
    assert browser.visible(".layer") == [_layer(row)], "its tiles belong to the line"


def test_enter_opens_a_tile_and_escape_closes_it(browser, draft):
    browser.open(draft, **DESKTOP)
    browser.press("Tab", 3)
    assert browser.focused() == "tile tile-A"
    browser.press("Enter")

    assert browser.visible(".zoom") == ["zoom"]
    assert browser.focused() == "close"
    browser.press("Escape")
    assert browser.visible(".zoom") == []
    assert browser.focused() == "tile tile-A", "the focus is where it was"


def test_a_link_to_a_line_to_be_checked_gives_it_the_focus(browser, draft):
    browser.open(draft, **DESKTOP)
    browser.js("location.hash = 'line-s2'")
    browser.press("Tab")

    assert browser.js("document.activeElement.closest('.row').id") == "row-s2"


def test_alternative_texts_match_their_line(browser, draft):
    browser.open(draft, **DESKTOP)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    names = [
        node["name"]["value"] for node in nodes if node.get("role", {}).get("value") in ("button", "image")
    ]
    tiles = [name for name in names if "evidence tile" in name]

    assert len(tiles) >= browser.js("document.querySelectorAll('.tile').length")
    pattern = (
        r"(Strongest|\w+ strongest) evidence tile for “[^”]+”: \d+ % of its evidence, at x \d+, y \d+ px .*mm"
    )
    assert [name for name in tiles if not re.match(pattern, name)] == []
    assert any(f"“{BELIEVED}: " in name for name in tiles)
    assert "Where the evidence for all lines together lies: brighter where the model looked more" in names
    assert not [name for name in names if name.startswith("Where the evidence for “")], (
        "hidden maps are not read"
    )


# -- on a phone


@pytest.mark.parametrize("size", PHONES, ids=str)
def test_an_enlarged_tile_fits_a_phone_and_names_its_line(browser, draft, size):
    width, height = size
    browser.open(draft, width=width, height=height, phone=True)
    row = _row(browser, BELIEVED)
    browser.tap(f"{row} .tile-C")
    left, top, right, bottom = browser.box(f"{row} .zoom:popover-open")

    assert (left, right, bottom) == (0, width, height)
    assert top >= 0
    picture = browser.box(f"{row} .zoom:popover-open .pixels")
    assert picture[2] - picture[0] == pytest.approx(picture[3] - picture[1])
    assert picture[2] - picture[0] >= 0.5 * min(size), "it is enlarged"
    assert picture[3] <= height
    assert f"{BELIEVED}: " in browser.js(f"document.querySelector('{row} .zoom:popover-open').innerText")
    browser.tap(f"{row} .zoom:popover-open .close")
    assert browser.visible(".zoom") == []


@pytest.mark.parametrize("size", PHONES, ids=str)
@pytest.mark.parametrize("which", ["draft", "foreign"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser, size, which, request):
    browser.open(request.getfixturevalue(which), width=size[0], height=size[1], phone=True)

    assert browser.js("document.documentElement.scrollWidth") == size[0]


def test_a_phone_leads_from_a_line_to_its_place_on_the_slide(browser, draft):
    browser.open(draft, width=390, height=844, phone=True)
    row = _row(browser, BELIEVED)
    browser.tap(f"{row} .choose a")

    assert browser.js("location.hash") == "#map-" + row.removeprefix("#row-")
    assert browser.visible(".layer") == [_layer(row)]


# -- on paper


def test_paper_has_the_notice_and_the_number_on_every_page(paper):
    for number, page in enumerate(paper.pages, 1):
        assert page.text.count("AI-generated draft, not for clinical use. Unsigned.") == 1 + (number == 1)
        assert f"Page {number} of {len(paper.pages)}" in page.text


def test_paper_overprints_nothing_and_cuts_nothing(paper):
    for page in paper.pages:
        assert page.overprinted() == []
        left, top, right, bottom = page.ink_mm()
        assert min(left, top, right, bottom) > 6, "nothing lies where printers do not print"
        assert left == pytest.approx(right, abs=1), "the right border is there as the left one is"


def test_paper_gives_the_text_first_then_the_evidence(paper):
    whole = "\n".join(page.text for page in paper.pages)
    order = [
        "Draft, line by line",
        "Image quality",
        "Where the evidence lies",
        "Evidence, line by line",
        "Provenance",
    ]
    places = [whole.index(words) for words in order]

    assert places == sorted(places)
    assert "Keep on slide" not in whole
    assert "folds, bubbles" in whole


def test_paper_breaks_no_line_and_no_tile(paper, draft):
    """The four tiles of a line stand side by side, below the words that say how far to believe them."""
    rows = [(page, *row) for page in paper.pages for row in page.captions().items()]

    assert {letters for _, _, letters in rows} == {"ABCD"}
    assert 4 * len(rows) == draft.read_text(encoding="utf-8").count('class="tile ')
    for page, height, _ in rows:
        assert any(word.startswith("measured") and 0 < height - box[3] < 150 for box, word in page.words)

"""draft.html in a real browser: it opens without complaint, says what it must, and shows the evidence."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from cli_runs import histgen
from PIL import Image

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser itself must not reach anything either
    "--enable-logging=stderr",
    "--log-level=0",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is missing: `make setup` installs it"
    return found


@pytest.fixture
def browse(chromium, tmp_path):
    """Open a page; returns what the browser printed and its log."""

    def open_page(page: Path, *flags: str) -> tuple[str, str]:
        done = subprocess.run(
            [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return open_page


@pytest.fixture(scope="session")
def page(model_dir, slide_path, tmp_path_factory) -> Path:
    """Write an ordinary draft's page."""
    out = tmp_path_factory.mktemp("page")
    assert histgen("report", slide_path, "--out", out, "--model", model_dir).code == 0
    return out / "sound" / "draft.html"


@pytest.fixture(scope="session")
def foreign_page(model_dir, slide_path, tmp_path_factory) -> Path:
    """Write the page of a slide that the model calls foreign."""
    out = tmp_path_factory.mktemp("foreign")
    model = Path(shutil.copytree(model_dir, out / "model"))
    tiny_model.set_thresholds(model, domain=1e-6)
    assert histgen("report", slide_path, "--out", out, "--model", model).code == 0
    return out / "sound" / "draft.html"


def _complaints(log: str) -> list[str]:
    """List what the page itself caused: console messages, blocked and failed loads."""
    return [line for line in log.splitlines() if re.search(r"CONSOLE|Content Security|ERR_|Refused to", line)]


def test_the_page_opens_without_a_complaint(browse, page):
    dom, log = browse(page, "--dump-dom")

    assert _complaints(log) == []
    assert "AI-generated draft, not for clinical use" in dom
    assert "Draft, line by line" in dom


def test_every_picture_is_drawn(browse, page, tmp_path):
    """The browser decodes each data URI: a picture that failed would show its alternative text instead."""
    broken = page.read_text(encoding="utf-8").count("data:image/")
    picture = tmp_path / "shot.png"
    browse(page, f"--screenshot={picture}", "--window-size=1360,1400")
    colours = Image.open(picture).convert("RGB").getcolors(2**24)

    assert broken > 5
    assert len(colours) > 5000, "a page without its pictures has few colours"


def test_nobody_can_miss_that_a_slide_is_foreign(browse, foreign_page, tmp_path):
    """A large part of the first screen is red, and the reason is the first thing said."""
    picture = tmp_path / "shot.png"
    browse(foreign_page, f"--screenshot={picture}", "--window-size=1280,720")
    r, g, b = np.moveaxis(np.asarray(Image.open(picture).convert("RGB")), 2, 0)
    red = float(((r > 120) & (g < 60) & (b < 80)).mean())
    dom, log = browse(foreign_page, "--dump-dom")

    assert red > 0.08
    assert dom.index("Out of distribution: do not rely on this draft") < dom.index("Draft, line by line")
    assert _complaints(log) == []


def test_the_page_prints(browse, page, tmp_path):
    paper = tmp_path / "draft.pdf"
    browse(page, f"--print-to-pdf={paper}", "--no-pdf-header-footer")

    assert paper.read_bytes().startswith(b"%PDF-")
    assert paper.stat().st_size > 20_000

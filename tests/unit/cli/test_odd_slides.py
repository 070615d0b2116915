"""Slides that are no files, and names to which nothing can be added, on every command that takes slides."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

LONGEST = "n" * 251 + ".tif"
"""As many bytes as a name may have."""


def command(name: str, slides: list[Path], out: Path, model_dir: Path) -> list[object]:
    more = {"report": ["--model", model_dir], "tiles": [], "encode": ["--encoder", model_dir, "--workers", 1]}
    return [name, *slides, "--out", out, *more[name]]


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_a_pipe_or_device_ends_at_once_and_is_named_for_what_it_is(histgen, model_dir, tmp_path, name):
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "zero.svs").symlink_to("/dev/zero")
    slides = [tmp_path / "pipe.svs", tmp_path / "zero.svs"]
    code, _, err = histgen(*command(name, slides, tmp_path / "out", model_dir))

    assert code == 1
    for slide in slides:
        assert f"error[slide-unreadable]: {slide.name} cannot be read: it is not a regular file." in err


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_the_longest_name_there_is_is_a_name_like_others(histgen, model_dir, slide_path, tmp_path, name):
    slide = Path(shutil.copy(slide_path, tmp_path / LONGEST))
    code, _, err = histgen(*command(name, [slide], tmp_path / "out", model_dir))

    assert (code, [path.name[:5] for path in (tmp_path / "out").iterdir()]) == (0, ["nnnnn"]), err


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_a_terminal_obeys_no_name(histgen, model_dir, slide_path, tmp_path, name):
    """Neither one that is drafted nor one that fails, in what is said of it or in the summary."""
    good = Path(shutil.copy(slide_path, tmp_path / "a\x1b[31m\nb[bold].tif"))
    bad = tmp_path / "c\x1b[31m\nd[bold].svs"
    bad.write_text("no slide")
    code, out, err = histgen(*command(name, [good, bad], tmp_path / "out", model_dir))

    assert code == 1
    assert "\x1b[31m" not in out + err
    assert "slide-format-unknown" in err

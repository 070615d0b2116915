"""Slides that are not files, and names of maximum length, for every command that takes slides."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

LONGEST = "n" * 251 + ".tif"
"""The most bytes a file name can have."""


def command(name: str, slides: list[Path], out: Path, model_dir: Path) -> list[object]:
    more = {"report": ["--model", model_dir], "tiles": [], "encode": ["--encoder", model_dir, "--workers", 1]}
    return [name, *slides, "--out", out, *more[name]]


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_a_pipe_or_device_is_refused_at_once_for_what_it_is(histgen, model_dir, tmp_path, name):
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "zero.svs").symlink_to("/dev/zero")
    slides = [tmp_path / "pipe.svs", tmp_path / "zero.svs"]
    code, _, err = histgen(*command(name, slides, tmp_path / "out", model_dir))

    assert code == 1
    for slide in slides:
        assert f"error[slide-unreadable]: {slide.name} cannot be read: it is not a regular file." in err


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_the_longest_possible_name_works_like_any_other(histgen, model_dir, slide_path, tmp_path, name):
    slide = Path(shutil.copy(slide_path, tmp_path / LONGEST))
    code, _, err = histgen(*command(name, [slide], tmp_path / "out", model_dir))

    assert (code, [path.name[:5] for path in (tmp_path / "out").iterdir()]) == (0, ["nnnnn"]), err


@pytest.mark.parametrize("name", ["report", "tiles", "encode"])
def test_slide_names_cannot_control_the_terminal(histgen, model_dir, slide_path, tmp_path, name):
    """Neither a drafted slide's name nor a failed one's, in its messages or in the summary."""
    good = Path(shutil.copy(slide_path, tmp_path / "a\x1b[31m\nb[bold].tif"))
    bad = tmp_path / "c\x1b[31m\nd[bold].svs"
    bad.write_text("no slide")
    code, out, err = histgen(*command(name, [good, bad], tmp_path / "out", model_dir))

    assert code == 1
    assert "\x1b[31m" not in out + err
    assert "slide-format-unknown" in err

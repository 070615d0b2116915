"""Every process says which version of which commit it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from histgen_lib import __version__
from histgen_lib.telemetry import exposition
from histgen_lib.telemetry.build import REVISION, UNKNOWN, revision


@pytest.fixture(autouse=True)
def unstated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REVISION, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a repository of one commit, with git itself."""
    folder = tmp_path / "checkout"
    git(tmp_path, "init", "-q", str(folder))
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(folder, *identity, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_an_image_states_its_revision(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setenv(REVISION, "abc123")
    assert revision(checkout) == "abc123"


@pytest.mark.parametrize("kept", ["loose", "packed", "detached", "worktree"])
def test_a_checkout_is_of_the_commit_that_git_says(checkout: Path, kept: str) -> None:
    stated = git(checkout, "rev-parse", "HEAD")
    if kept == "packed":
        git(checkout, "pack-refs", "--all")
    elif kept == "detached":
        git(checkout, "checkout", "-q", "--detach")
    elif kept == "worktree":
        git(checkout, "worktree", "add", "-q", "-b", "side", str(checkout.parent / "side"))
    place = checkout.parent / "side" if kept == "worktree" else checkout

    assert revision(place) == stated


def test_an_installed_package_does_not_know(tmp_path: Path) -> None:
    assert revision(tmp_path) == UNKNOWN
    (tmp_path / ".git").write_text("nonsense")
    assert revision(tmp_path) == UNKNOWN


def test_the_page_says_which_build_it_is_of() -> None:
    lines = [line for line in exposition()[0].decode().splitlines() if line.startswith("histgen_build_info{")]

    assert len(lines) == 1
    assert f'version="{__version__}"' in lines[0]
    assert lines[0].endswith(" 1.0")

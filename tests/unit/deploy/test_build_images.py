"""deploy/images/build.sh pins, builds and writes down; a stand-in for docker notes how it is called.

docker itself is not here. What the stand-in is asked is what docker's reference says that it takes: `buildx
imagetools inspect --format '{{.Manifest.Digest}}'`, and `buildx build`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "deploy/images/build.sh"
DIGEST = f"sha256:{'7' * 64}"
DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >>"$NOTES"
[ "$3" != inspect ] || echo "$ANSWER"
"""


def build(
    folder: Path, *arguments: str, answer: str = DIGEST
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it in a folder of its own; return what it printed, and each call of docker."""
    place = folder / "checkout"
    (place / "deploy" / "images").mkdir(parents=True)
    for name in (SCRIPT, "pyproject.toml"):
        (place / name).write_bytes((ROOT / name).read_bytes())
    (place / SCRIPT).chmod(0o755)
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    notes = folder / "notes"
    notes.touch()
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(notes), "ANSWER": answer}
    ran = subprocess.run(
        [place / SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return ran, notes.read_text().splitlines()


def test_images_are_built_on_the_digest_that_the_tag_stands_for(tmp_path: Path) -> None:
    ran, calls = build(tmp_path)
    assert ran.returncode == 0, ran.stderr
    builds = [call for call in calls if call.startswith("buildx build")]
    assert len(builds) == 4  # two images, and what is in each
    for call, base in zip(builds, ("PYTHON", "PYTHON", "TRITON", "TRITON"), strict=True):
        assert f"--build-arg {base}_DIGEST={DIGEST}" in call
    assert ["--target image" in call for call in builds] == [True, False, True, False]
    written = (tmp_path / "checkout" / "out" / "images" / "histgen.txt").read_text()
    assert f"base docker.io/library/python:3.11-slim-bookworm@{DIGEST}" in written


def test_what_is_pushed_carries_its_bill_of_materials_and_provenance(tmp_path: Path) -> None:
    _, calls = build(tmp_path, "--registry", "registry.lab/pathology", "--tag", "7", "histgen")
    (pushed,) = [call for call in calls if "--push" in call]
    assert "--tag registry.lab/pathology/histgen:7" in pushed
    assert "--sbom=true --provenance=mode=max" in pushed


def test_without_a_digest_nothing_is_built(tmp_path: Path) -> None:
    ran, calls = build(tmp_path, "histgen", answer="ERROR: not found")
    assert (ran.returncode, "no digest" in ran.stderr) == (2, True)
    assert [call for call in calls if call.startswith("buildx build")] == []


def test_a_digest_that_is_chosen_is_not_looked_up(tmp_path: Path) -> None:
    _, calls = build(tmp_path, "--python", f"mirror.lab/python:3.11@{DIGEST}", "histgen")
    assert not any("inspect" in call for call in calls)
    assert f"--build-arg PYTHON_IMAGE=mirror.lab/python:3.11 --build-arg PYTHON_DIGEST={DIGEST}" in calls[0]


def test_a_dry_run_prints_commands_and_runs_none(tmp_path: Path) -> None:
    ran, calls = build(tmp_path, "--dry-run")
    assert (ran.returncode, calls) == (0, [])
    commands = [shlex.split(line)[1:] for line in ran.stdout.splitlines()]
    assert [command[:3] for command in commands].count(["docker", "buildx", "build"]) == 4
    assert not (tmp_path / "checkout" / "out").exists()


@pytest.mark.parametrize(("arguments", "code"), [(("--help",), 0), (("--tag",), 2), (("worker",), 2)])
def test_it_says_how_it_is_used(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    ran, calls = build(tmp_path, *arguments)
    assert (ran.returncode, calls) == (code, [])
    assert "--tag" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "script", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/**/*.sh"))
)
def test_shell_scripts_can_be_parsed(script: str) -> None:
    assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0

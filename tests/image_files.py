"""What a Dockerfile of deploy/images says, and the image's content made without docker.

`histgen_image` follows the Dockerfile step by step: the same files, the same command for the wheel, and an
environment with nothing in it but what the wheel asks for, linked from this one.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "deploy" / "images"


class Dockerfile:
    """Its instructions, one a line, with lines that go on put together."""

    def __init__(self, name: str) -> None:
        self.path = IMAGES / f"{name}.Dockerfile"
        lines = [line for line in self.path.read_text().splitlines() if not line.lstrip().startswith("#")]
        text = re.sub(r"\\\n\s*", "", "\n".join(lines))
        self.instructions = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]

    def of(self, kind: str) -> list[str]:
        """Return what follows each instruction of a kind."""
        return [rest for name, rest in self.instructions if name == kind]

    def environment(self) -> dict[str, str]:
        """Return the variables of the image."""
        return dict(word.split("=", 1) for word in shlex.split(self.of("ENV")[-1]))

    def copied(self) -> list[str]:
        """Return the files and folders of the checkout that are copied."""
        sources = [words.split()[:-1] for words in self.of("COPY") if not words.startswith("--from")]
        return sorted({name for names in sources for name in names})

    def step(self, words: str) -> list[str]:
        """Return the one command of a RUN that contains some words, as arguments."""
        steps = [step.strip() for run in self.of("RUN") for step in run.split("&&")]
        (found,) = [step for step in steps if words in step]
        return shlex.split(found)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the Dockerfile's files by the Dockerfile's command; neither network nor checkout."""
    source, file = folder / "src", Dockerfile("histgen")
    for name in file.copied():
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, place)
    command = [
        {"/tools/bin/python": sys.executable, "/wheel": str(folder)}.get(w, w) for w in file.step("pip wheel")
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def histgen_image(folder: Path) -> Path:
    """Make what the Dockerfile puts into /opt/histgen; return its folder."""
    wheel, place = build_wheel(folder), folder / "opt"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python3*/site-packages")
    (extras,) = re.findall(r"\$\{wheel\}\[([a-z,]+)\]", Dockerfile("histgen").path.read_text())
    for name in closure("histgen", extras.split(",")) - {"histgen"}:
        _link(name, site)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    shutil.copy(IMAGES / "health.py", place)
    return place


def closure(name: str, extras: Iterable[str] = ()) -> set[str]:
    """Name a package, and all that it needs with some of its extras."""
    found: set[tuple[str, str]] = set()
    waiting = [(name, extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) not in found:
            found.add((package, extra))
            waiting += _needs(package, extra)
    return {package for package, _ in found}


def _needs(package: str, extra: str) -> Iterator[tuple[str, str]]:
    try:
        requirements = distribution(package).requires or []
    except PackageNotFoundError:
        raise AssertionError(f"{package} is not installed here") from None
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = canonicalize_name(requirement.name)
            yield from ((name, wanted) for wanted in ("", *requirement.extras))


def _link(package: str, site: Path) -> None:
    """Link an installed package's files into an environment, with what they were compiled to."""
    installed = distribution(package)
    for file in installed.files or []:
        source = Path(str(installed.locate_file(file)))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            _link_file(source, site / file)
            compiled = Path(cache_from_source(str(source)))
            if source.suffix == ".py" and compiled.is_file():
                _link_file(compiled, Path(cache_from_source(str(site / file))))


def _link_file(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.hardlink_to(source)
    except OSError:  # another disk
        shutil.copy2(source, place)

"""Each service starts as an image would start it, and a slide becomes a draft; the Dockerfiles are sound.

There is no docker here: the image's content is made by following the Dockerfile (`image_files`), and services
run on it in mount namespaces of their own (`contained`), on a read-only root, as the image's account.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
from contained import ACCOUNT, Contained, why_not
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from image_files import IMAGES, ROOT, Dockerfile, closure, histgen_image
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from service_access import bearer_of
from waiting import until

from histgen_lib.stack.children import dying_with_parent, free_port
from services.table import SERVICES

NAMES = [row.name for row in SERVICES]
START_S = 120.0
WRITABLE = ("/tmp", "/scratch", "/var/lib/histgen", "/store")  # as in the image, and a store for lack of S3


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = os.umask(0o022)  # as in a build
    try:
        return histgen_image(tmp_path_factory.mktemp("image"))
    finally:
        os.umask(before)


class Container:
    """One service, run as its image would run it. Volumes are `folder`'s."""

    def __init__(self, image: Path, folder: Path, slides: Path, row_name: str) -> None:
        self.name, self.port = row_name, free_port()
        shared = {inside: folder / inside.strip("/").replace("/", "-") for inside in WRITABLE}
        own = folder / f"{row_name}-scratch"
        place = folder / f"{row_name}-root"
        place.mkdir()
        self._contained = Contained(
            place, {"/opt/histgen": image, "/slides": slides}, shared | {"/scratch": own}
        )
        self._environment = Dockerfile("histgen").environment() | {
            "HISTGEN_REVISION": "tried",
            "HISTGEN_BUS": "embedded:/store/bus.db",
            "HISTGEN_STORE": "file:/store/objects",
            "HISTGEN_CASE_INDEX": "file:/store/case-index",
            "HISTGEN_ROOTS": "/slides",
            "HISTGEN_PORT": str(self.port),
            "HISTGEN_HOST": "127.0.0.1",  # the tests' machine is no container's network
            "HISTGEN_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.log = folder / f"{row_name}.log"
        self.process = self.start("python", "-P", "-m", f"services.{row_name}")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = self._contained.command(arguments, self._environment, "/var/lib/histgen")
        with self.log.open("ab") as log:
            return subprocess.Popen(
                dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={}
            )

    def answers(self, page: str = "readyz") -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{page}", timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides-of-the-lab")
    folder.chmod(0o755)
    tiny_model.write_slide(folder / "A-1.tif", side_px=1024).chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def running(
    image: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Container]]:
    reason = why_not()
    if reason:
        pytest.skip(f"services cannot be tried as in a container here: {reason}")
    folder = tmp_path_factory.mktemp("volumes")
    containers = {name: Container(image, folder, slides, name) for name in NAMES}
    yield containers
    for container in containers.values():
        container.process.kill()
        container.process.wait()


@pytest.mark.parametrize("name", NAMES)
def test_each_service_starts_from_nothing_as_the_images_account(
    running: dict[str, Container], name: str
) -> None:
    container = running[name]
    until(container.answers, START_S, f"{name} is ready", every_s=0.2)
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(said["Uid"].split()) == set(said["Gid"].split()) == {str(ACCOUNT)}
    assert (said["CapEff"], said["CapPrm"], said["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert container.start("python", "-P", "/opt/histgen/health.py").wait(60) == 0
    assert container.start("python", "-P", "/opt/histgen/health.py", "readyz").wait(60) == 0


def test_a_container_can_write_nowhere_else(running: dict[str, Container]) -> None:
    """The trial itself is tried: what the services did not write they could not have written."""
    container = running[NAMES[0]]
    program = "import os, sys; from pathlib import Path; Path(sys.argv[1], 'x').write_text('x')"
    tried = ("/", "/opt/histgen", "/usr", "/etc", "/slides", "/root", "/tmp")
    done = [container.start("python", "-P", "-c", program, place).wait(60) == 0 for place in tried]
    assert done == [False] * 6 + [True]


def test_a_slide_becomes_a_draft(running: dict[str, Container], tmp_path: Path) -> None:
    gateway = running["gateway"]
    until(gateway.answers, START_S, "the gateway is ready", every_s=0.2)
    volumes = gateway.log.parent
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}/slides",
        json.dumps({"uri": "file:///slides/A-1.tif"}).encode(),
        {"content-type": "application/json", **bearer_of(volumes / "var-lib-histgen" / "secrets" / "token")},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status in (200, 201, 202)
    reports = volumes / "store" / "objects" / "reports" / "A-1"
    letters = volumes / "store" / "objects" / "dead-letter"
    until(
        lambda: (reports / "latest.json").is_file() or list(letters.glob("*")),
        START_S,
        "A-1 ends",
        every_s=0.2,
    )
    assert list(letters.glob("*")) == []
    (draft,) = reports.glob("*/draft.json")
    assert json.loads(draft.read_text())["slide_id"] == "A-1"


def test_a_container_that_is_stopped_leaves_within_its_grace(running: dict[str, Container]) -> None:
    """As the last test of these: SIGTERM reaches the service itself, without a shell between."""
    for container in running.values():
        until(container.answers, START_S, f"{container.name} is ready", every_s=0.2)
        container.process.send_signal(signal.SIGTERM)
    assert {name: one.process.wait(60) for name, one in running.items()} == dict.fromkeys(running, 0)


def test_an_image_has_what_the_wheel_asks_for_and_nothing_else(image: Path) -> None:
    """Above all no torch, no tests, and no pip."""
    (site,) = image.glob("lib/python3*/site-packages")
    there = {canonicalize_name(path.name.split("-")[0]) for path in site.glob("*.dist-info")}
    assert there == closure("histgen", ["oidc", "tracing"])
    assert not there & {"torch", "pytest", "pip", "onnx"}
    scripts = {path.name for path in (image / "bin").iterdir()}
    assert {"python", "histgen", "histgen-prepare-models"} <= scripts


def test_commands_of_the_wheel_find_all_that_they_need(image: Path, tmp_path: Path) -> None:
    """Away from the checkout: the shipped model, its repository, templates."""
    clean = {
        "PATH": f"{image / 'bin'}:{os.defpath}",
        "HOME": str(tmp_path),
        "MODELS": str(tmp_path / "models"),
    }
    for command in (
        ["histgen", "model", "info", "--json"],
        ["histgen-prepare-models"],
        ["histgen", "--help"],
    ):
        ran = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "models" / "repository" / "histgen" / "config.pbtxt").is_file()
    assert next(image.glob("lib/python3*/site-packages/histgen_lib/py.typed")).is_file()


def test_the_bill_of_materials_names_every_dependency_with_its_version(image: Path, tmp_path: Path) -> None:
    """By the Dockerfile's own command. It validates the whole bill, which takes long; here a part."""
    written = tmp_path / "histgen.cdx.json"
    own = {
        "/tools/bin/cyclonedx-py": str(Path(sys.executable).with_name("cyclonedx-py")),
        "/sbom/histgen.cdx.json": str(written),
        "/opt/histgen/bin/python": str(image / "bin" / "python"),
    }
    command = [own.get(word, word) for word in Dockerfile("histgen").step("cyclonedx-py")]
    assert "--no-validate" not in command
    ran = subprocess.run([*command, "--no-validate"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    bill = json.loads(written.read_text())
    listed = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "histgen"
    assert wanted <= set(listed)
    assert {name: pinned[name] for name in listed} == listed
    some = bill | {"components": bill["components"][::10], "dependencies": []}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(some)) is None


@pytest.mark.parametrize("name", ["histgen", "triton"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run(
        [hadolint, IMAGES / f"{name}.Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@pytest.mark.parametrize("name", ["histgen", "triton"])
def test_an_image_is_pinned_to_a_digest_runs_as_nobody_and_is_watched(name: str) -> None:
    file = Dockerfile(name)
    bases = [words.split()[0] for words in file.of("FROM")]
    argument = {"histgen": "PYTHON", "triton": "TRITON"}[name]
    outside = [base for base in bases if base not in {"scratch", "packaged"}]
    assert set(outside) == {f"${{{argument}_IMAGE}}@${{{argument}_DIGEST}}"}
    assert f"{argument}_DIGEST" in file.of("ARG")  # without a value: whoever builds has to say which
    assert file.of("USER")[-1] == f"{ACCOUNT}:{ACCOUNT}"
    assert len(file.of("HEALTHCHECK")) == 1
    assert all(words.startswith("[") for words in file.of("CMD")[-1:])
    labels = file.of("LABEL")[0]
    assert all(f"image.{label}=" in labels for label in ("version", "revision", "licenses", "base.digest"))


def test_what_is_copied_into_images_is_let_into_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in ("histgen", "triton"):
        for copied in Dockerfile(name).copied():
            assert any(copied == one or copied.startswith(f"{one}/") for one in let_in), copied
            assert (ROOT / copied).exists()

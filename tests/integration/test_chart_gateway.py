"""A gateway with the chart's environment: it starts, its probes answer, `helm test` is content."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from chart_rendering import CHART, Manifest, environment, notes, one, render, values_of
from waiting import until

from histgen_lib.stack.children import free_port

TOKEN = "5" * 64


def here(stated: dict[str, str], folder: Path, port: int) -> dict[str, str]:
    """Give the chart's variables places on this machine; what they say besides stays."""
    mounted = folder / "token"
    (mounted / "..data").mkdir(parents=True)
    (mounted / "..data" / "token").write_text(TOKEN)
    (mounted / "..data" / "token").chmod(0o440)
    (mounted / "token").symlink_to("..data/token")
    (folder / "scans").mkdir()
    places = {
        "HISTGEN_BUS": f"embedded:{folder / 'bus.db'}",
        "HISTGEN_STORE": f"file:{folder / 'store'}",
        "HISTGEN_HOST": "127.0.0.1",
        "HISTGEN_PORT": str(port),
        "HISTGEN_WATCH": str(folder / "scans"),
        "HISTGEN_INDEX": str(folder / "index.db"),
        "HISTGEN_TOKEN_FILE": str(mounted / "token"),
        "HOME": str(folder),
    }
    assert set(places) <= set(stated)
    return stated | places


@pytest.fixture(scope="module")
def container() -> Manifest:
    deployment = one(render(values_of("small-lab")), "Deployment", "lab-histgen-gateway")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return found


@pytest.fixture(scope="module")
def variables(container: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    stated = here(environment(container), tmp_path_factory.mktemp("gateway"), free_port())
    return {"PATH": os.environ["PATH"]} | stated


@pytest.fixture(scope="module")
def gateway(container: Manifest, variables: dict[str, str]) -> Iterator[str]:
    python, *command = container["command"]
    assert python == "python"
    log = Path(variables["HOME"]) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=variables,
            cwd=CHART.parents[1],
            stderr=output,
            stdout=output,
        )
    url = f"http://127.0.0.1:{variables['HISTGEN_PORT']}"
    try:
        until(lambda: process.poll() is not None or status(f"{url}/readyz") == 200, 60, "the gateway")
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.kill()
        process.wait()


def status(url: str, token: str = "") -> int:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_every_probe_asks_a_page_that_answers(gateway: str, container: Manifest) -> None:
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert status(gateway + container[kind]["httpGet"]["path"]) == 200


def test_the_mounted_token_opens_it(gateway: str) -> None:
    assert status(f"{gateway}/status", TOKEN) == 200
    assert status(f"{gateway}/status", TOKEN[:-1] + "6") == 401


def test_what_an_install_prints_submits_a_slide_and_shows_it(
    gateway: str, variables: dict[str, str], slide_path: Path
) -> None:
    slide = Path(shutil.copy(slide_path, variables["HISTGEN_WATCH"]))
    here = {"SLIDE": str(slide), "http://127.0.0.1:8080": gateway}
    lines = [line for line in notes(values_of("small-lab")).splitlines() if " exec " in line]
    for line in lines:
        program, *arguments = shlex.split(line.partition(" -- ")[2])
        assert program == "histgen"
        command = [here.get(word, word) for word in arguments if word != "--wait"]  # no worker runs
        done = subprocess.run(
            [sys.executable, "-m", "histgen_lib.cli", *command],
            env=variables,
            cwd=CHART.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert slide.stem in done.stdout


def test_pruning_runs_with_what_its_pod_has(gateway: str, tmp_path: Path) -> None:
    job = one(render(values_of("small-lab")), "CronJob", "lab-histgen-retention")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    places = {"HISTGEN_STORE": f"file:{tmp_path}", "HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "histgen_lib.cli", *container["command"][1:]],
        env=environment(container) | places,
        cwd=CHART.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()


def asked(*urls: str, patience_s: float = 0) -> subprocess.CompletedProcess[str]:
    """Run what the pod of `helm test` runs."""
    pod = one(render(values_of("small-lab")), "Pod", "lab-histgen-test")
    _, option, script, *_ = pod["spec"]["containers"][0]["command"]
    command = [sys.executable, option, script, *urls]
    return subprocess.run(
        command,
        env={**os.environ, "PATIENCE_S": str(patience_s)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_helm_test_passes_on_a_gateway_that_is_ready_and_locked(gateway: str) -> None:
    done = asked(gateway)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{gateway}/status: 401, 401 expected" in done.stdout


class Answers(BaseHTTPRequestHandler):
    """Answers 200 to everybody, or what a class of it says."""

    def status(self) -> int:
        return 200

    def do_GET(self) -> None:
        self.send_response(self.status())
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(answers: type[Answers]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_helm_test_fails_where_nobody_answers_or_the_door_is_open(gateway: str) -> None:
    assert asked(gateway, f"http://127.0.0.1:{free_port()}").returncode == 1
    with served(Answers) as url:
        done = asked(url)
    assert done.returncode == 1
    assert f"{url}/status: 200, 401 expected" in done.stdout


def test_helm_test_waits_for_a_gateway_that_just_starts() -> None:
    seen = []

    class Starting(Answers):
        def status(self) -> int:
            seen.append(self.path)
            return 401 if self.path == "/status" else 200 if len(seen) > 2 else 503

    with served(Starting) as url:
        done = asked(url, patience_s=60)
    assert done.returncode == 0, done.stdout
    assert seen.count("/readyz") == 2

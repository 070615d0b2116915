"""A gateway with the chart's environment: it starts, its probes answer, `helm test` is content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_rendering import CHART, Manifest, environment, one, render, values_of
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
def gateway(container: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("gateway")
    python, *command = container["command"]
    assert python == "python"
    system = {"PATH": os.environ["PATH"]}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=system | here(environment(container), folder, port),
            cwd=CHART.parents[1],
            stderr=log,
            stdout=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or status(f"{url}/readyz") == 200, 60, "the gateway")
        assert process.poll() is None, (folder / "log").read_text()
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


def asked(*urls: str) -> subprocess.CompletedProcess[str]:
    """Run what the pod of `helm test` runs."""
    pod = one(render(values_of("small-lab")), "Pod", "lab-histgen-test")
    _, option, script, _ = pod["spec"]["containers"][0]["command"]
    command = [sys.executable, option, script, *urls]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_helm_test_passes_on_a_gateway_that_is_ready_and_locked(gateway: str) -> None:
    done = asked(gateway)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{gateway}/status: 401, 401 expected" in done.stdout


def test_helm_test_fails_where_nobody_answers_or_the_door_is_open(gateway: str, httpd_open: str) -> None:
    assert asked(gateway, f"http://127.0.0.1:{free_port()}").returncode == 1
    done = asked(httpd_open)
    assert done.returncode == 1
    assert f"{httpd_open}/status: 200, 401 expected" in done.stdout


@pytest.fixture
def httpd_open() -> Iterator[str]:
    """Run a server that answers 200 to everybody."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Open)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()

"""A real Prometheus with the shipped rules watches a whole `histgen up` with a real tritonserver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import tiny_model
from docs_blocks import runbook_queries
from prometheus_server import BINARIES, ROOT, Prometheus
from running_stack import RunningStack, stack_up
from tiny_retrieval import tiny_retrieval_model
from waiting import until

DASHBOARDS = ROOT / "helm" / "histgen" / "files" / "dashboards"
GPU = (ROOT / "tests" / "recorded" / "triton-gpu.prom").read_bytes()
CHOSEN = {
    "$__rate_interval": "1m",
    "$interval": "5m",
    "$namespace": ".*",
    "$worker": ".*",
    "$model": ".*",
}
PANELS = [
    pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
    for path in sorted(DASHBOARDS.glob("*.json"))
    for panel in json.loads(path.read_text())["panels"]
    for target in panel.get("targets", ())
]


class Gpu(BaseHTTPRequestHandler):
    """Serves a GPU's metrics, as Triton would on a machine that has one."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(GPU)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def gpu_metrics(targets: Path) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gpu) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = {
            "targets": [f"127.0.0.1:{server.server_port}"],
            "labels": {"job": "histgen-triton", "service": "gpu"},
        }
        (targets / f"gpu-{os.getpid()}.json").write_text(json.dumps([target]))
        yield
        server.shutdown()


def certificate(folder: Path, *, days: int) -> Path:
    path = folder / "lab.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=lab", "-keyout", str(folder / "key.pem"), "-out", str(path)]
    command = ["openssl", "req", "-x509", *key, "-days", str(days), *names]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory, triton_home) -> Iterator[RunningStack]:
    """Run all services and tritonserver; a certificate that they know ends in two days."""
    folder = tmp_path_factory.mktemp("watched")
    kafka = json.dumps({"ssl_cafile": str(certificate(folder, days=2))})
    environment = {"HISTGEN_SETTLE_S": "0.5", "HISTGEN_LOOK_S": "0.2", "HISTGEN_KAFKA": kafka}
    options = ("--inference", "triton", "--model", tiny_retrieval_model())
    with stack_up(folder / "home", *options, env=environment) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack) -> Iterator[Prometheus]:
    """Watch the stack from before its first slide on: one is drafted, a truncated one is not."""
    with gpu_metrics(stack.home / "run" / "targets"):
        server = Prometheus(stack.home)
        until(
            lambda: len(server.query("up == 1")) == 8,
            60,
            "seven processes of the stack and a GPU are scraped",
        )
        until(lambda: server.numbers("sum(histgen_dead_letters_total)") == [0.0], 60, "counters at 0")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def truncated(stack, prometheus) -> None:
    """Drop a sound slide into the watched folder, then another one and the first half of a third."""
    aside, inbox = stack.home / "arriving", stack.home / "inbox"
    aside.mkdir()
    tiny_model.write_slide(aside / "first.tif", seed=1).rename(inbox / "first.tif")
    drafts = "sum(histgen_scan_to_draft_seconds_count)"
    until(
        lambda: prometheus.numbers(drafts) == [1.0], 60, "a draft"
    )  # then the series of its stages are there
    tiny_model.write_slide(aside / "second.tif", seed=2).rename(inbox / "second.tif")
    half = tiny_model.write_slide(aside / "half.tif", seed=3)
    os.truncate(half, half.stat().st_size // 2)
    half.rename(inbox / "half.tif")


def test_a_truncated_slide_fires_the_dead_letter_alert_within_a_minute(stack, prometheus, truncated):
    until(lambda: "HistgenDeadLetters" in prometheus.firing(), 60, "the alert")

    (alert,) = prometheus.query('ALERTS{alertname="HistgenDeadLetters"}')
    assert alert["metric"]["code"] == "slide-damaged"
    assert alert["metric"]["severity"] == "ticket"


@pytest.fixture(scope="module")
def searched(stack, prometheus, truncated) -> None:
    """Search, and withdraw a slide, so that the series of both have samples."""
    indexed = 'histgen_case_index_holds{kind="slides"}'
    until(lambda: prometheus.numbers(indexed) == [2.0], 60, "both slides are in the index")
    assert stack("search", "--slide", "first").code == 0
    assert stack("withdraw", "second", "--reason", "wrong patient").code == 0
    until(lambda: prometheus.numbers(indexed) == [1.0], 60, "one was withdrawn")


@pytest.mark.parametrize("query", PANELS)
def test_every_query_of_every_dashboard_returns_data(prometheus, searched, query):
    for variable, value in CHOSEN.items():
        query = query.replace(variable, value)
    assert "$" not in query

    until(partial(prometheus.numbers, query), 60, query)


@pytest.mark.parametrize("query", runbook_queries())
def test_every_query_of_the_runbooks_is_understood(prometheus, query):
    prometheus.query(query)


def test_a_certificate_that_ends_in_two_days_raises_its_alert(prometheus):
    until(lambda: prometheus.raised("HistgenCertificateExpires", severity="page"), 60, "the alert")


def test_promtool_finds_no_fault_with_what_is_served(stack, prometheus):
    targets = [json.loads(path.read_text())[0] for path in (stack.home / "run" / "targets").glob("*.json")]
    served = {one["labels"]["service"]: one["targets"][0] for one in targets}

    ours = {"gateway", "tiler", "reporter", "librarian", "search", "up"}
    assert set(served) == ours | {"triton", "gpu"}
    for service in ours:
        assert faults(served[service]) == [], service


def faults(address: str) -> list[str]:
    command = [BINARIES / "promtool", "check", "metrics"]
    served = httpx.get(f"http://{address}/metrics").content
    done = subprocess.run(command, input=served, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode().splitlines()


def test_a_triton_that_hangs_is_seen_by_its_canary(stack, prometheus, truncated):
    (target,) = (stack.home / "run" / "targets").glob("triton-*.json")
    server = int(target.stem.rpartition("-")[2])
    os.kill(server, signal.SIGSTOP)
    try:
        until(lambda: prometheus.raised("HistgenCanaryFailing"), 60, "the alert")
    finally:
        os.kill(server, signal.SIGCONT)

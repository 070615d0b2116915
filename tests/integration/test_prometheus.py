"""A real Prometheus scrapes a running stream, with the shipped rules, and the questions get answers."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_model
import yaml
from harness import Stream, on_this_machine, scanned
from waiting import until

from histgen_lib.events import Event
from histgen_lib.stack.children import dying_with_parent

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
BINARIES = ROOT / ".local" / "prometheus" / "usr" / "bin"
RULES = [
    rule
    for group in yaml.safe_load((SHIPPED / "histgen.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ANSWERED = sorted(rule["record"] for rule in RULES if "record" in rule)


class Prometheus:
    """A server, configured as shipped, in the folder of a stream; it scrapes every second."""

    def __init__(self, folder: Path) -> None:
        shutil.copy(SHIPPED / "histgen.rules.yml", folder)
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._client = httpx.Client(base_url=f"http://{address}", timeout=10)
        options = [f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent(
                    [str(BINARIES / "prometheus"), f"--config.file={folder / 'prometheus.yml'}", *options]
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; [] while the server is not ready."""
        try:
            answer = self._client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        return (
            []
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            else list(answer.json().get("data", {}).get("result", []))
        )

    def numbers(self, expression: str) -> list[float]:
        """Evaluate an expression to numbers; those that are none are left out."""
        values = [float(found["value"][1]) for found in self.query(expression)]
        return [value for value in values if not math.isnan(value)]

    def firing(self) -> list[str]:
        """Name the alerts that fire now."""
        return [found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Let it watch a stream that drafts two slides and gives one up."""
    folder = tmp_path_factory.mktemp("watched")
    slides = [tiny_model.write_slide(folder / f"slide-{seed}.tif", seed=seed) for seed in (1, 2)]
    bad = folder / "bad.svs"
    bad.write_text("no slide")
    stream = Stream(on_this_machine(folder / "stream"), folder / "stream", tiny_model.tiny_model())
    stream.start("tiler", "reporter")
    server = Prometheus(stream.folder)
    until(lambda: len(server.query("up == 1")) == len(stream.services), 60, "both workers are scraped")
    stream.publish(scanned(path) for path in (*slides, bad))
    stream.settle(3, 120)
    yield server
    server.stop()
    stream.stop()


@pytest.mark.parametrize("record", ANSWERED)
def test_every_recorded_series_has_data(prometheus: Prometheus, record: str) -> None:
    if record == "histgen:retries:per_minute":  # nothing was away
        assert prometheus.query("absent(histgen:retries:per_minute) or histgen:retries:per_minute == 0")
        return
    until(lambda: prometheus.numbers(record), 60, record)


def test_drafts_and_dead_letters_are_counted(prometheus: Prometheus) -> None:
    def counted() -> bool:
        return prometheus.numbers("sum(histgen_scan_to_draft_seconds_count)") == [2.0] and prometheus.numbers(
            "sum by (code) (histgen_dead_letters_total) > 0"
        ) == [1.0]

    until(counted, 60, "two drafts and one dead letter")
    (counted_one,) = prometheus.query("histgen_dead_letters_total > 0")
    assert counted_one["metric"]["code"] == "slide-format-unknown"


@pytest.fixture
def tiler_alone(tmp_path: Path) -> Iterator[tuple[Stream, Prometheus, Event]]:
    """Have a stream watched that runs nothing yet; and an event that will be given up."""
    stream = Stream(on_this_machine(tmp_path / "stream"), tmp_path / "stream", tiny_model.tiny_model())
    server = Prometheus(stream.folder)
    bad = tmp_path / "bad.svs"
    bad.write_text("no slide")
    yield stream, server, scanned(bad)
    server.stop()
    stream.abort()


def letters(server: Prometheus) -> list[float]:
    return server.numbers('histgen:dead_letters:per_hour{code="slide-format-unknown"}')


def test_the_first_letter_of_a_code_fires_the_alert(tiler_alone: tuple[Stream, Prometheus, Event]) -> None:
    stream, server, event = tiler_alone
    stream.start("tiler")
    until(lambda: letters(server) == [0.0], 60, "the code is there before any letter has it")
    assert server.firing() == []
    stream.publish([event])

    until(lambda: server.firing() == ["HistgenDeadLetters"], 60, "the alert")


def test_a_letter_written_before_the_first_scrape_fires_it_and_a_restart_does_not_end_it(
    tiler_alone: tuple[Stream, Prometheus, Event],
) -> None:
    stream, server, event = tiler_alone
    stream.publish([event])
    stream.start("tiler")
    until(lambda: any(value > 0 for value in letters(server)), 60, "the letter is seen")
    stream.services["tiler"].kill()
    stream.restart("tiler")
    until(lambda: server.query('count(count_over_time(up{service="tiler"}[1h])) == 2'), 60, "another tiler")
    until(lambda: not server.query("histgen_dead_letters_total > 0"), 60, "the first one is gone")

    until(lambda: server.firing() == ["HistgenDeadLetters"], 60, "the alert")
    assert letters(server) == [1.0]


def test_promtool_accepts_the_shipped_rules() -> None:
    for kind, name in (("rules", "histgen.rules.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [str(BINARIES / "promtool"), "check", kind, str(SHIPPED / name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

"""A real Prometheus scrapes a running stream, with the shipped rules, and the questions get answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
import yaml
from harness import Stream, on_this_machine, scanned
from prometheus_server import RULES, Prometheus
from waiting import until

from histgen_lib.events import Event

RECORDED = sorted(
    rule["record"]
    for path in RULES.glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
)
OF_OTHERS = {
    "histgen:backlog_records": "of the gateway",
    "histgen:backlog_oldest_seconds": "of the gateway",
    "histgen:backlog_partition_records": "of the gateway",
    "histgen:certificate_left:seconds": "no certificate is in use",
    "histgen:retries:rate5m": "nothing was away",
    "histgen:drafts:increase7d": "of the week before",
    "histgen:abstentions:ratio7d": "of the week before",
    "histgen:domain_distance:mean7d": "of the week before",
    "histgen:domain_distance_slides:increase7d": "of the week before",
}
"""What a stream of workers does not show on its first day; test_watched_stack.py sees the first three."""
ANSWERED = [record for record in RECORDED if record not in OF_OTHERS]


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
    return server.numbers('histgen:dead_letters:increase1h{code="slide-format-unknown"}')


def test_the_first_letter_of_a_code_fires_the_alert(tiler_alone: tuple[Stream, Prometheus, Event]) -> None:
    stream, server, event = tiler_alone
    stream.start("tiler")
    until(lambda: letters(server) == [0.0], 60, "the code is there before any letter has it")
    assert not server.raised("HistgenDeadLetters")
    stream.publish([event])

    until(lambda: "HistgenDeadLetters" in server.firing(), 60, "the alert")


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

    until(lambda: "HistgenDeadLetters" in server.firing(), 60, "the alert")
    assert letters(server) == [1.0]

"""Alerts are provoked on real services, and a real Prometheus sees their conditions come and go.

"Raised" is an alert that fires, or whose condition holds now and has to hold for some minutes more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tiny_model
from harness import SOURCE, Place, Stream, on_this_machine, scanned
from processes import thaw
from prometheus_server import Prometheus
from small_disk import small_disk
from waiting import until

from histgen_lib.events import Event
from histgen_lib.storage import StorageSettings


class Watched:
    """A stream and the Prometheus that watches it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.stream = Stream(place, folder / "stream", tiny_model.tiny_model())
        self.server = Prometheus(self.stream.folder)

    def start(self, *labels: str, **settings: str) -> None:
        """Start services and wait until they are scraped, and ready unless they are to lack something."""
        self.stream.start(*labels, **settings)
        until(lambda: len(self.server.query("up == 1")) >= len(labels), 60, "they are scraped")

    def raised(self, alert: str, **labels: str) -> None:
        self.stream.until(lambda: self.server.raised(alert, **labels), 60, f"{alert} {labels}")

    def recovered(self, alert: str, **labels: str) -> None:
        self.stream.until(lambda: not self.server.raised(alert, **labels), 60, f"{alert} {labels} to end")

    def end(self) -> None:
        self.server.stop()
        self.stream.abort()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    one = Watched(on_this_machine(tmp_path / "stream"), tmp_path)
    yield one
    one.end()


def scanned_before(path: Path, minutes: float) -> Event:
    """Announce a slide as it would have been then."""
    event = scanned(path)
    return Event.first(
        event.data, source=SOURCE, now=datetime.now(UTC) - timedelta(minutes=minutes), identity=event.id
    )


def slide(folder: Path, seed: int) -> Path:
    return tiny_model.write_slide(folder / f"slide-{seed}.tif", seed=seed)


def test_three_late_drafts_burn_the_budget_and_a_single_one_calls_nobody(watched, tmp_path):
    watched.start("tiler", "reporter")
    watched.stream.publish([scanned_before(slide(tmp_path, 0), 60)])
    watched.stream.settle(1, 60)
    bad = "histgen:slides_bad:increase1h > 0"
    until(lambda: watched.server.query(bad), 60, "the late draft is counted")
    assert not watched.server.raised("HistgenBurnRateFast")

    watched.stream.publish(scanned_before(slide(tmp_path, seed), 60) for seed in (1, 2, 3))
    watched.stream.settle(4, 60)

    for alert in ("HistgenBurnRateFast", "HistgenBurnRateMedium", "HistgenBurnRateSlow"):
        watched.raised(alert, alertstate="firing")


def test_a_slide_that_waits_is_seen_until_it_is_drafted(watched, tmp_path):
    watched.start("tiler", "reporter")
    child = watched.stream.services["tiler"].freeze_child()
    watched.stream.publish([scanned_before(slide(tmp_path, 1), 120)])
    for severity in ("ticket", "page"):
        watched.raised("HistgenSlideWaits", severity=severity)

    thaw(child)
    watched.stream.settle(1, 60)

    watched.recovered("HistgenSlideWaits")


def test_a_killed_service_and_a_missing_one_are_targets_that_are_down(watched):
    watched.start("tiler")
    watched.raised("HistgenTargetDown", cause="gone", service="gateway")
    watched.stream.services["tiler"].kill()
    watched.raised("HistgenTargetDown", cause="silent", service="tiler")

    watched.stream.restart("tiler")

    watched.recovered("HistgenTargetDown", cause="silent")
    watched.raised("HistgenTargetDown", cause="one", service="tiler")  # the address of the dead one


def test_slides_that_wait_while_no_worker_runs_are_seen_by_the_gateway(watched, tmp_path):
    watched.start("gateway")
    watched.stream.publish([scanned(slide(tmp_path, 1))])
    watched.raised("HistgenTargetDown", cause="unmanned", worker="tiler")

    watched.start("tiler", "reporter")
    watched.stream.settle(1, 60)

    watched.recovered("HistgenTargetDown", cause="unmanned")


def test_a_triton_that_is_away_is_seen_by_the_retries(tmp_path):
    nobody = f"triton://{tmp_path / 'nobody'}"
    watched = Watched(replace(on_this_machine(tmp_path / "stream"), inference=nobody), tmp_path)
    try:
        watched.start("tiler")
        watched.stream.publish([scanned(slide(tmp_path, 1))])

        watched.raised("HistgenRetries", code="inference-unavailable", severity="page")
    finally:
        watched.end()


def test_a_full_store_is_seen_on_its_disk_and_by_the_jobs_until_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", 32) as disk:
        store = StorageSettings(f"file:{disk.folder / 'objects'}")
        watched = Watched(replace(on_this_machine(tmp_path / "stream"), storage=store), tmp_path)
        try:
            watched.start("tiler", "reporter")
            assert not watched.server.raised("HistgenDiskLow", volume="store")
            disk.fill()
            watched.raised("HistgenDiskLow", volume="store", severity="page")
            watched.stream.publish([scanned(slide(tmp_path, 1))])
            watched.raised("HistgenStoreErrors")

            disk.free()
            watched.stream.settle(1, 120)

            watched.recovered("HistgenDiskLow", volume="store")
        finally:
            watched.end()

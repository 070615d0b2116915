"""Upgrade and rollback: services of the version before and of today share a broker and a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fleet import WAIT_S, Fleet, aborting, command_line, version_before
from harness import SESSION_S, Place, on_this_machine

from histgen_lib.bus import BusSettings

SERVICES = ("gateway", "reporter", "tiler")
"""In this order, there and back, the tiler is alone in its version once, and the gateway is, too."""


pytestmark = pytest.mark.timeout(1800)  # many services are started, on a machine that may be busy


@pytest.fixture
def before(tmp_path) -> Path:
    return version_before(tmp_path / "before")


@pytest.fixture(params=["embedded", "kafka"])
def place(request, tmp_path) -> Place:
    here = on_this_machine(tmp_path / "place", session_s=SESSION_S)
    if request.param == "embedded":
        return here
    return replace(here, bus=BusSettings(request.getfixturevalue("own_kafka").url, 4, SESSION_S))


@pytest.fixture
def fleet(place, tmp_path, model_dir) -> Iterator[Fleet]:
    yield from aborting(Fleet(place, tmp_path / "fleet", model_dir, slides=60))


def move(fleet: Fleet, service: str, version: str, code: Path | None) -> None:
    """Replace a service by one of a version while it has a slide in hand; have a slide drafted after that."""
    (old,) = (label for label in fleet.services if label.startswith(service))
    new = f"{service}-{version}"
    if service == "gateway":
        fleet.drop()
        fleet.bring(new, code=code)
        fleet.retire(old)
    else:
        fleet.retire_in_mid_job(old, new, code=code)
    fleet.drafted(*fleet.drop())


def test_a_rolling_upgrade_and_a_rollback_end_each_slide_once(fleet, before):
    """Gateway, reporter and tiler go to today's version one by one, and back; each mixture drafts slides."""
    fleet.bring(*(f"{service}-before" for service in SERVICES), code=before)
    fleet.drafted(*fleet.drop())
    for service in SERVICES:
        move(fleet, service, "today", None)
    for service in SERVICES:
        move(fleet, service, "again", before)
    fleet.finish()
    fleet.check_each_once()
    fleet.stop()

    ours, theirs = (verdict(fleet, code) for code in (None, before))
    assert ours == theirs == []
    assert states(fleet, None) == states(fleet, before) == dict.fromkeys(fleet.dropped, "drafted")
    for service in SERVICES:
        assert list((before / "services" / service / "__pycache__").glob("app.*.pyc")), "it ran its own code"


def version_after(folder: Path) -> Path:
    """Return sources whose services write events of the next schema version, and read both."""
    events = version_before(folder) / "histgen_lib" / "events.py"
    text = events.read_text()
    for old, new in (
        ("SCHEMA_VERSION = 1", "SCHEMA_VERSION = 2"),
        ("str(SCHEMA_VERSION)) != str(SCHEMA_VERSION)", '"1") not in ("1", "2")'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    events.write_text(text)
    return folder


def test_a_slide_whose_event_is_of_a_later_schema_version_is_not_lost(tmp_path, model_dir):
    """A tiler that was updated before its readers, and rolled back: its events are refused, never misread."""
    fleet = Fleet(on_this_machine(tmp_path / "place"), tmp_path / "fleet", model_dir, slides=2)
    try:
        fleet.bring("gateway", "reporter")
        fleet.bring("tiler-after", code=version_after(tmp_path / "after"))
        fleet.drop()
        (key,) = fleet.until(lambda: fleet.keys("dead-letter/"), WAIT_S, "the event is refused")
        assert json.loads(fleet.store.get(key))["code"] == "event-version"
        assert states(fleet, None)[fleet.dropped[0]] == "bagged", "the slide waits"

        fleet.retire("tiler-after")
        fleet.bring("tiler-back")
        assert fleet.resend() == fleet.dropped
        fleet.drafted(*fleet.dropped, *fleet.drop())
        fleet.stop()
        assert sorted(fleet.drafts()) == sorted(fleet.dropped)
    finally:
        fleet.abort()


def test_a_later_versions_setting_is_ignored_in_the_environment_and_refused_in_a_file(tmp_path, before):
    """What docs/operations.md says about rolling back."""
    (tmp_path / "lab.yaml").write_text("not_yet_known: 1\n")
    later = {"HISTGEN_BUS": "embedded:/x/bus.db", "HISTGEN_STORE": "file:/x", "HISTGEN_NOT_YET_KNOWN": "1"}
    shown, refused = (
        command_line("config", "show", "tiler", code=before, env=later | file)
        for file in ({}, {"HISTGEN_CONFIG": str(tmp_path / "lab.yaml")})
    )

    assert shown.returncode == 0, shown.stderr
    assert refused.returncode == 78
    assert "'not_yet_known' in the settings file is not a setting of this service" in refused.stderr


def verdict(fleet: Fleet, code: Path | None) -> list[str]:
    """Return what `histgen verify` of a version finds damaged."""
    done = command_line("verify", "--store", fleet.place.storage.url, "--restart", "--json", code=code)
    return json.loads(done.stdout)["objects_damaged"]


def states(fleet: Fleet, code: Path | None) -> dict[str, str]:
    """Return where every slide stands, according to a version."""
    done = command_line("status", "--store", fleet.place.storage.url, "--all", "--json", code=code)
    return {slide["slide_id"]: slide["state"] for slide in json.loads(done.stdout)["slides"]}

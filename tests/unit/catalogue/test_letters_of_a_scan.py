"""A slide's dead letters are found by what follows from its scan, whichever types of events there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import planted_objects as planted
import pytest

from histgen_lib import events
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.dead_letter import came_of, letter_ids
from histgen_lib.events import (
    BAG_READY,
    REPORT_DRAFTED,
    BagReady,
    Event,
    ReportDrafted,
    following_id,
    replay_id,
)
from histgen_lib.storage import StorageSettings, open_store


@dataclass(frozen=True)
class ReportIndexed:
    """An event of a service that a later version may have."""

    type: ClassVar[str] = "report.indexed"
    follows: ClassVar[str | None] = REPORT_DRAFTED
    slide_id: str


@pytest.fixture
def store(tmp_path):
    return open_store(StorageSettings(f"file:{tmp_path}"))


@pytest.fixture
def scan(store) -> Event:
    return planted.scan(store, "a")


def bagged(scan: Event) -> Event:
    data = BagReady("a", "file:///a.svs", scan.data.content_id, "bag", "scan", "d" * 64, 1, 1)
    return scan.then(data, source="/histgen/tiler", now=planted.NOON)


def drafted(scan: Event) -> Event:
    data = ReportDrafted("a", "d" * 64, "draft", False)
    return bagged(scan).then(data, source="/histgen/reporter", now=planted.NOON)


def test_letters_may_be_of_every_event_that_a_service_takes(store, scan):
    """Nothing follows a draft, so no service takes it."""
    assert letter_ids(store, scan) == [scan.name, bagged(scan).name]


def test_a_service_that_takes_drafts_needs_only_its_type_of_event(store, scan, monkeypatch):
    monkeypatch.setitem(events._KINDS, ReportIndexed.type, ReportIndexed)

    assert letter_ids(store, scan) == [scan.name, bagged(scan).name, drafted(scan).name]


def test_a_replayed_letter_leads_to_those_of_its_replay(store, scan):
    store.put(keys.replayed_key(bagged(scan).name), b"")
    again = replay_id(bagged(scan).name)  # the scan's event, see `replay`

    assert letter_ids(store, scan)[2:] == [again, following_id(again, BAG_READY)]


@pytest.mark.parametrize("follower", [lambda scan: scan, bagged, drafted])
def test_a_letter_belongs_to_the_scan_that_its_event_follows_from(store, scan, follower):
    other = replace(scan, id="f" * 32)  # some senders give all of their slides one trace
    letter = planted.letter(store, follower(scan))

    assert came_of(letter, scan)
    assert not came_of(letter, other)

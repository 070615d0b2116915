"""The gateway keeps the index of slides, and no problem with the index holds up the gateway."""

from __future__ import annotations

import math
import time

import planted_objects as planted
import pytest
from gateway_fakes import context
from waiting import until

from histgen_lib.catalogue.index import Index, make_index, open_index
from histgen_lib.errors import FatalError
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.telemetry import metrics
from services.gateway.housekeeping import Indexing, SharedIndex


@pytest.fixture
def store(tmp_path):
    return open_store(StorageSettings(f"file:{tmp_path / 'objects'}"))


@pytest.fixture
def kept(tmp_path):
    return SharedIndex(tmp_path / "index.db", "store")


@pytest.fixture
def loop(kept, store):
    """Run the loop with short pauses."""
    stop = Stop()
    loop = Indexing(context(stop), kept, store, retry_s=0.01)
    loop.thread.start()
    yield loop
    stop.request()
    loop.thread.join(60)
    assert not loop.thread.is_alive()


def counts(tmp_path) -> dict[str, int]:
    index = open_index(tmp_path / "index.db", "store")
    return index.counts() if index and index.fact("whole") else {}


def test_slides_are_in_the_index_soon(loop, store, kept, tmp_path):
    planted.scan(store, "a")
    until(lambda: counts(tmp_path) == {"scanned": 1}, 60, "the index to be whole")
    planted.letter(store, planted.scan(store, "b"))
    kept.touch("b")

    until(lambda: counts(tmp_path) == {"scanned": 1, "dead-letter": 1}, 60, "the news")


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_missing_or_damaged_index_is_replaced(loop, store, tmp_path, harm):
    planted.scan(store, "a")
    until(lambda: counts(tmp_path), 60, "the index to be whole")
    path = tmp_path / "index.db"
    if harm == "removed":
        path.unlink()
    else:
        for part in (path, path.with_name("index.db-wal")):
            part.write_bytes(b"\xff" * 65536)

    until(lambda: counts(tmp_path) == {"scanned": 1}, 60, "another index")


def test_a_store_that_denies_access_does_not_stop_the_gateway(loop, store, tmp_path, monkeypatch):
    planted.scan(store, "a")
    refusals = [1, 1, 1]
    listing = type(store).list

    def listed(self, prefix=""):
        if refusals:
            refusals.pop()
            raise FatalError("storage-denied", "The system refuses.")
        return listing(self, prefix)

    monkeypatch.setattr(type(store), "list", listed)
    until(lambda: counts(tmp_path) == {"scanned": 1}, 60, "the index to be whole")

    assert loop.thread.is_alive()


def test_news_that_cannot_be_recorded_raise_nothing(tmp_path, store):
    (tmp_path / "index.db").mkdir()
    SharedIndex(tmp_path / "index.db", "store").touch("a")
    SharedIndex(tmp_path / "no" / "index.db", "store").touch("a")


def test_an_index_of_another_store_is_replaced(tmp_path, store, kept):
    make_index(tmp_path / "index.db", "elsewhere").touch(["a"])
    kept.touch("b")

    assert [due.subject for due in kept.open().due(0.0, 9)] == ["b"]


def shown(state: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("histgen_slides", {"state": state})


def oldest_s() -> float | None:
    return metrics.REGISTRY.get_sample_value("histgen_slides_unfinished_oldest_seconds")


def test_where_slides_stand_is_shown_and_how_long_the_oldest_has_waited(loop, store, kept):
    until(lambda: shown("scanned") == 0, 60, "an empty index")
    assert oldest_s() == 0
    event = planted.scan(store, "a")
    kept.touch("a")
    until(lambda: shown("scanned") == 1, 60, "the slide")
    assert (shown("bagged"), shown("drafted"), shown("dead-letter")) == (0, 0, 0)
    assert oldest_s() == pytest.approx(time.time() - event.scanned_at.timestamp(), abs=60)
    planted.letter(store, event)
    kept.touch("a")

    until(lambda: (shown("scanned"), shown("dead-letter")) == (0, 1), 60, "its end")
    until(lambda: oldest_s() == 0, 60, "nothing waits")


def test_nothing_is_shown_before_every_slide_is_known_and_after_the_end(kept, store, monkeypatch):
    planted.scan(store, "a")
    monkeypatch.setattr(Index, "fact", lambda self, name: "")
    stop = Stop()
    loop = Indexing(context(stop), kept, store, retry_s=0.01)
    loop.thread.start()
    until(lambda: kept.open().counts(), 60, "the slide is in the index")
    assert shown("scanned") is None
    assert math.isnan(oldest_s())
    stop.request()
    loop.thread.join(60)
    assert shown("scanned") is None

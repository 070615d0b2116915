"""Librarians are killed, work side by side, have a slow index: no case is lost, doubled or left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from library import MINUTES_S, Library
from shelf_lab import ShelfLab, slide
from slow_server import slowed
from tiny_retrieval import planted_bag, report_of, tiny_retrieval_model
from waiting import until

from histgen_lib.bags import Bag
from histgen_lib.bus import BusSettings, open_backlog
from histgen_lib.events import Event
from histgen_lib.models.folder import open_model_folder
from histgen_lib.storage import StorageSettings, open_store
from services.table import service_named

CASES, SIGNED, WITHDRAWN = 12, range(0, 12, 4), range(1, 12, 6)
TEXT = "Colon, biopsy:\n  Adenoma"
Shelf = Mapping[str, tuple[str, bool]]


class PlantedLab(ShelfLab):
    """Its bags have features of the tiny model's width."""

    def bag(self, slide_id: str, shown: object = (), **more: object) -> Bag:
        width = open_model_folder(tiny_retrieval_model()).histgen.input_dim
        features, xy, _ = planted_bag(int(slide_id[1:]) % 4, int(slide_id[1:]), dim=width)
        bag = Bag(slide_id, features.astype("float16"), xy, 256.0, 256, 0.5, 0.5, (2304, 2304), "tiny", "")
        return self.stored(bag)


def told(folder: Path) -> tuple[list[Event], Shelf]:
    """Write cases, signatures, withdrawals; return their events, each twice, and what is to be found."""
    lab = PlantedLab(store=open_store(StorageSettings(f"file:{folder / 'store'}")))
    events, expected = [], {}
    for number in range(CASES):
        name = f"S{number}"
        lab.scan(name)
        events.append(lab.draft(slide(name), report_of(number % 4)))
        expected[name] = (report_of(number % 4), False)
    for number in SIGNED:
        events.append(lab.sign(slide(f"S{number}"), TEXT)[1])
        expected[f"S{number}"] = (TEXT, True)
    for number in WITHDRAWN:
        events.append(lab.withdraw(slide(f"S{number}")))
        del expected[f"S{number}"]
    return [*events, *reversed(events)], expected


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path, tiny_retrieval_model(), BusSettings(f"embedded:{tmp_path / 'bus.db'}", 4, 2.0))
    yield made
    made.kill()


@pytest.fixture(params=["embedded", "kafka"])
def either(request: pytest.FixtureRequest, library: Library) -> Library:
    """Return a library on each of the brokers."""
    if request.param == "kafka":
        library.bus = BusSettings(request.getfixturevalue("own_kafka").url, 4, 2.0)
    return library


def waiting(library: Library) -> int:
    """Count the events that no librarian has finished."""
    with closing(open_backlog(library.bus)) as backlog:
        groups = service_named("librarian").groups
        return sum(
            one.records for topic, group in groups.items() for one in backlog.waiting(topic, group).values()
        )


def found(library: Library) -> Shelf:
    """Return what the index has, by slide; there is no more than one entry of each."""
    with closing(library.index()) as index:
        entries = {name: index.find(name) for name in (f"S{number}" for number in range(CASES))}
        shown = {name: (entry.text, entry.signed) for name, entry in entries.items() if entry}
        state = index.state()
    assert (state.cases, state.slides) == (len(shown), len(shown))
    return shown


def settle(library: Library, meanwhile: Callable[[], object] = lambda: None) -> None:
    def done() -> bool:
        meanwhile()
        return waiting(library) == 0

    until(done, MINUTES_S, "everything to be finished", every_s=0.2)


def test_a_librarian_that_is_killed_again_and_again_loses_and_doubles_no_case(either: Library):
    events, expected = told(either.folder)
    either.publish(*events)
    until(lambda: waiting(either) == len(events), MINUTES_S, "all events on the broker")
    librarian = either.start()
    for left in (28, 18, 8):
        until(lambda left=left: waiting(either) < left, MINUTES_S, "some events to be finished", every_s=0.02)
        librarian.kill()
        librarian.wait(MINUTES_S)
        librarian = either.start()
    settle(either)

    assert found(either) == expected
    assert not list(either.store.list("dead-letter/"))


def test_two_librarians_at_once_lose_and_double_no_case(either: Library):
    events, expected = told(either.folder)
    either.start()
    either.start()
    either.publish(*events)
    until(lambda: waiting(either) < len(events), MINUTES_S, "the first event to be finished")
    settle(either)

    assert found(either) == expected
    assert not list(either.store.list("dead-letter/"))


def test_an_index_that_answers_slowly_is_waited_for(library: Library, moto_server):
    events, expected = told(library.folder)
    settings = moto_server.settings(moto_server.make_bucket(), "index")
    with slowed(moto_server.endpoint, 0.05) as endpoint:
        library.index_at = StorageSettings(settings.url, endpoint, settings.region)
        library.publish(*events[: len(events) // 2])
        credentials = {"AWS_ACCESS_KEY_ID": "histgen-tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
        library.start(**credentials)
        settle(library)
    library.index_at = settings

    assert found(library) == expected
    assert not list(library.store.list("dead-letter/"))

"""The service goes on with what it holds while its servers are away, and follows them when they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from search_lab import SearchLab
from waiting import until

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.retrieval import CaseIndex
from histgen_lib.retrieval.questions import Question
from histgen_lib.retrieval.searching import Searcher
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import metrics
from services.search.app import SearchBoard
from services.search.keeping import UNASKED_S, Holding, IndexKeeping, ModelKeeping, WithdrawalKeeping

AWAY = TransientError("some-outage", "It is away.", hint="Wait.")
SOON_S = 0.01


class Service:
    """The parts of the service that the loops work on."""

    def __init__(self, lab: SearchLab) -> None:
        self.lab, self.stop, self.board, self.now = lab, Stop(), SearchBoard(), 0.0
        self.context = LoopContext(self.board, self.stop, backoff=Backoff(SOON_S, SOON_S))
        self.holding = Holding(self._searcher, lambda: self.now)

    def _searcher(self, index: CaseIndex) -> Searcher:
        return Searcher(index, self.lab.network, self.lab.store)

    def index_keeping(self, open_index: Callable[[], CaseIndex] | None = None) -> IndexKeeping:
        return IndexKeeping(self.context, self.holding, open_index or (lambda: self.lab.index), SOON_S)

    def withdrawal_keeping(self) -> WithdrawalKeeping:
        return WithdrawalKeeping(self.context, self.holding, self.lab.store, SOON_S)


@contextmanager
def running(*loops: Loop) -> Iterator[None]:
    for loop in loops:
        loop.thread.start()
    try:
        yield
    finally:
        for loop in loops:
            loop._stop.request()
            loop.thread.join(20)
            assert not loop.thread.is_alive()


@pytest.fixture
def service(lab: SearchLab) -> Service:
    return Service(lab)


def up(dependency: str) -> float:
    return float(metrics.DEPENDENCY_UP.labels("search", dependency)._value.get())


def asked(service: Service) -> Searcher:
    return service.holding.searcher


def test_it_is_ready_and_answers_once_index_and_withdrawals_were_seen(service: Service):
    assert set(service.board.missing) == {"index", "store"}
    with pytest.raises(TransientError):
        asked(service)
    with running(service.index_keeping(), service.withdrawal_keeping()):
        until(lambda: not service.board.missing, 20, "it is ready")
        assert asked(service).answer(Question(text="breast")).found
    assert service.holding.state.cases == 5


def test_an_index_without_the_withdrawals_answers_nothing(service: Service):
    with running(service.index_keeping()):
        until(lambda: "index" not in service.board.missing, 20, "the index is open")
        with pytest.raises(TransientError) as caught:
            asked(service)
    assert caught.value.code == "withdrawals-unknown"


def test_an_index_that_cannot_be_opened_yet_is_opened_later(service: Service):
    tries = []

    def open_index() -> CaseIndex:
        tries.append(1)
        if len(tries) < 3:
            raise AWAY
        return service.lab.index

    with running(service.index_keeping(open_index)):
        until(lambda: "index" not in service.board.missing, 20, "the index is open")
    assert len(tries) == 3


def test_an_index_that_falls_behind_its_storage_shows_and_is_searched(service: Service):
    with running(service.index_keeping(), service.withdrawal_keeping()):
        until(lambda: not service.board.missing, 20, "it is ready")
        service.lab.index.behind = 12.0
        until(lambda: up("index") == 0, 20, "the outage shows")
        service.now = UNASKED_S - 1
        assert "index" not in service.board.missing, "the service would get no requests"
        assert service.holding.behind_s == 12.0
        assert asked(service).answer(Question(text="breast")).found
        service.lab.index.behind = 0.0
        until(lambda: up("index") == 1, 20, "it is current again")


def test_a_write_is_in_the_state_at_the_next_look(service: Service):
    with running(service.index_keeping()):
        until(lambda: "index" not in service.board.missing, 20, "the index is open")
        service.lab.case("l1", ["tumour"], organ="Lung")
        until(lambda: "Lung" in service.holding.state.organs, 20, "the new organ is known")


def owners(service: Service) -> set[str]:
    found = asked(service).answer(Question(text="breast", count=100)).found
    return {one.entry.owner for one in found}


def test_what_is_withdrawn_in_the_store_is_not_found_though_no_librarian_runs(service: Service):
    with running(service.index_keeping(), service.withdrawal_keeping()):
        until(lambda: not service.board.missing, 20, "it is ready")
        assert "case/K" in owners(service)
        service.lab.store.put("withdrawn/case/K.json", b"{}")
        service.lab.store.put("withdrawn/b1.json", b"{}")
        until(lambda: owners(service) == {"b2", "c1", "c2"}, 20, "they are left out")


def test_without_the_store_it_goes_on_for_a_while_and_comes_back(service: Service):
    service.lab.store.put("withdrawn/b1.json", b"{}")
    with running(service.index_keeping(), service.withdrawal_keeping()):
        until(lambda: not service.board.missing, 20, "it is ready")
        service.lab.store.error = AWAY
        until(lambda: up("store") == 0, 20, "the outage shows")
        service.now = UNASKED_S - 1
        assert not service.board.missing
        assert "b1" not in owners(service)
        service.now = UNASKED_S + 1
        until(lambda: service.board.missing == {"store": "some-outage"}, 20, "it is not ready any more")
        with pytest.raises(TransientError) as caught:
            asked(service)
        assert caught.value.code == "withdrawals-unknown"
        service.lab.store.error = None
        until(lambda: not service.board.missing, 20, "it is ready again")
        assert "b1" not in owners(service)


def test_a_store_that_was_never_there_keeps_the_service_from_being_ready(service: Service):
    service.lab.store.error = AWAY
    with running(service.withdrawal_keeping()):
        until(lambda: service.board.missing.get("store") == "some-outage", 20, "it says why")


def test_a_model_server_that_is_away_shows_and_keeps_nothing_from_being_ready(service: Service):
    service.lab.networks.error = AWAY
    with running(ModelKeeping(service.context, service.lab.networks, service.holding.clock, SOON_S)):
        until(lambda: up("model") == 0, 20, "the outage shows")
        service.now = 1e6
        assert "model" not in service.board.missing
        service.lab.networks.error = None
        until(lambda: up("model") == 1, 20, "it is back")


def test_an_index_that_cannot_be_used_stops_the_service(service: Service):
    def open_index() -> CaseIndex:
        raise FatalError("case-index-unusable", "It is no index.", hint="Look.")

    with running(service.index_keeping(open_index)):
        until(lambda: service.stop.requested, 20, "the service stops")
    assert [error.code for error in service.stop.failures] == ["case-index-unusable"]

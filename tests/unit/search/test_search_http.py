"""POST /search, GET /cases and GET /state give clear answers, whatever is asked and whatever is away."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_client import SearchClient, searches
from search_lab import MODEL, SPAN_PX, SearchLab
from service_access import bearer

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from services.search.keeping import UNASKED_S
from services.search.request import read_question


@pytest.fixture
def client(lab: SearchLab) -> SearchClient:
    return SearchClient(lab)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"]
    assert error["hint"]
    return answer.status_code, error["code"]


def test_an_answer_has_cases_with_reports_and_pairs_and_the_index_they_come_from(client: SearchClient):
    answer = client.search(slide="b1", count=2)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["task"], body["source"], len(body["hits"])) == ("slide-cases", "index", 2)
    best = body["hits"][0]
    assert {"slide_id", "case_id", "score", "report", "pairs", "stain", "site", "date"} == set(best)
    assert set(best["report"]) == {"digest", "text", "organ", "diagnosis", "signed", "synthetic"}
    assert set(best["pairs"][0]) == {"here", "words", "there", "similarity"}
    assert body["index"]["version"] == 1
    assert body["index"]["model"] == MODEL
    assert body["index"]["cases"] == 5
    assert body["index"]["behind_s"] == 0.0


def test_the_four_tasks_are_asked_by_their_fields(client: SearchClient, lab: SearchLab):
    lab.bag("b1", ["breast", "tumour", "stroma"])
    asked = [
        {"slide": "b1"},
        {"slide": "b1", "region": [0, 0, SPAN_PX, SPAN_PX], "find": "cases"},
        {"slide": "b1", "find": "reports"},
        {"text": "tumour"},
        {"text": "tumour", "find": "reports", "organ": "colon", "since": "2024-01-01", "signed": None},
    ]
    answers = [client.search(**values) for values in asked]
    assert [answer.json()["task"] for answer in answers] == [
        "slide-cases",
        "region-cases",
        "slide-reports",
        "text-cases",
        "text-reports",
    ]
    assert all(answer.json()["hits"] for answer in answers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "request-unreadable")),
        (b"[]", (400, "request-unreadable")),
        (b'{"text": "a", "text": "b"}', (400, "request-unreadable")),
        (b'{"text": NaN}', (400, "request-unreadable")),
        (b'{"text": "\\ud800 tumour"}', (400, "request-unreadable")),
        (b'{"text": "colon", "stain": "\\udfff"}', (400, "request-unreadable")),
        (b"[" * 60_000, (400, "request-unreadable")),
        ({"text": "a", "count": True}, (422, "request-invalid")),
        ({"text": "a", "count": None}, (422, "request-invalid")),
        ({"text": 1}, (422, "request-invalid")),
        ({"text": "a", "patient": "x"}, (422, "request-invalid")),
        ({"text": "a", "find": "slides"}, (422, "request-invalid")),
        ({"text": "a", "count": "3"}, (422, "request-invalid")),
        ({"text": "a", "signed": "yes"}, (422, "request-invalid")),
        ({}, (422, "query-empty")),
        ({"text": ""}, (422, "query-empty")),
        ({"text": "  \n"}, (422, "query-empty")),
        ({"text": "\x00\x1b\u200b"}, (422, "query-empty")),
        ({"slide": "../../etc/passwd"}, (404, "query-slide-unknown")),
        ({"slide": "b1", "region": [0.0, 0, 10, 10]}, (422, "query-region-malformed")),
        ({"slide": "b1", "region": [-100, -100, 50, 50]}, (422, "query-region-outside")),
        ({"slide": "b1", "region": [0, 0, 2**31, 1]}, (422, "query-region-malformed")),
        ({"text": "colon", "region": [0, 0, 10, 10]}, (422, "query-region-malformed")),
        ({"text": "colon", "organ": "' OR 1=1 --"}, (422, "organ-unknown")),
        ({"slide": "b1", "text": "colon"}, (422, "query-both")),
        ({"text": "a" * 60_000}, (413, "query-text-too-long")),
        ({"text": "a" * 1_000_000}, (413, "request-too-large")),
        ({"slide": "nobody"}, (404, "query-slide-unknown")),
        ({"slide": "b1", "region": [90_000, 0, 10, 10]}, (422, "query-region-outside")),
        ({"slide": "b1", "region": [0, 0, 0, 10]}, (422, "query-region-malformed")),
        ({"slide": "b1", "region": {"x": 1}}, (422, "query-region-malformed")),
        ({"slide": "b1", "region": "1,2,3"}, (422, "query-region-malformed")),
        ({"text": "colon", "organ": "Lung"}, (422, "organ-unknown")),
        ({"text": "colon", "since": "01.02.2024"}, (422, "query-date")),
        ({"text": "colon", "count": 1000}, (422, "query-count")),
    ],
)
def test_bad_queries_are_refused_with_a_4xx_and_a_code(client: SearchClient, lab: SearchLab, body, expected):
    lab.bag("b1", ["breast", "tumour", "stroma"])
    assert refusal(client.search(body)) == expected


def test_no_value_of_a_request_is_repeated(client: SearchClient, lab: SearchLab):
    lab.bag("Mustermann", ["breast"])
    bodies = (
        {"text": "Mustermann", "organ": "Erika"},
        {"slide": "Erika"},
        {"slide": "Mustermann", "region": [4711, 0, 10, 10]},
        {"find": "Erika"},
        {"text": "Erika", "count": 4711},
    )
    for body in bodies:
        answer = client.search(body)
        assert answer.status_code >= 400
        for value in ("Mustermann", "Erika", "4711"):
            assert value not in answer.text


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["slide", "text", "region", "find", "organ", "since", "count", "signed", "x"]),
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=5),
        max_size=5,
    )
)
def test_any_body_is_read_or_refused(values: dict[str, Any]):
    import json

    code = ""
    try:
        read_question(json.dumps(values).encode())
    except InvalidInputError as error:
        code = error.code
    assert code in ("", "request-unreadable", "request-invalid", "query-region-malformed")


def test_every_page_takes_the_scope_read(client: SearchClient):
    for method, path in (("POST", "/search"), ("GET", "/cases"), ("GET", "/state")):
        answer = asyncio.run(client.send(method, path, headers={"authorization": ""}))
        assert answer.status_code == 401
    assert client.door._rights["/search"] == "read"
    assert client.door._rights["/cases"] == "read"


def test_requests_from_web_pages_and_by_wrong_methods_are_refused(client: SearchClient):
    answer = asyncio.run(client.send("POST", "/search", content=b"{}", headers={"origin": "http://evil"}))
    assert refusal(answer) == (403, "request-origin")
    assert refusal(client.get("/search")) == (405, "request-method")


def test_a_case_is_shown_until_it_is_withdrawn(client: SearchClient):
    shown = client.get("/cases", params={"slide": "k1"}).json()
    assert (shown["slide_id"], shown["case_id"]) == ("k1", "K")
    client.holding.leave_out(frozenset({"case/K"}), 0.0)
    assert refusal(client.get("/cases", params={"slide": "k1"})) == (404, "query-slide-unknown")
    assert refusal(client.get("/cases", params={"slide": "nobody"})) == (404, "query-slide-unknown")
    assert refusal(client.get("/cases")) == (422, "query-empty")
    hits = client.search(text="breast", count=100).json()["hits"]
    assert {"k1", "k2"}.isdisjoint(hit["slide_id"] for hit in hits)


def test_the_state_says_what_is_in_the_index_and_how_old_that_is(client: SearchClient, lab: SearchLab):
    lab.index.behind = 12.34
    shown = client.get("/state").json()
    assert (shown["slides"], shown["cases"], shown["organs"]) == (6, 5, ["Breast", "Colon"])
    assert shown["behind_s"] == 12.3
    assert client.search(text="colon").json()["index"]["behind_s"] == 12.3


def test_before_the_index_is_loaded_the_answer_is_503_with_a_time_to_wait(lab: SearchLab):
    client = SearchClient(lab, loaded=False)
    for answer in (client.search(text="colon"), client.get("/state"), client.get("/cases?slide=b1")):
        assert refusal(answer) == (503, "case-index-loading")
        assert int(answer.headers["retry-after"]) > 0
    assert refusal(client.search(text="")) == (422, "query-empty")


def test_who_cannot_ask_what_is_withdrawn_does_not_answer_for_long(client: SearchClient):
    client.now = UNASKED_S - 1
    assert client.search(text="colon").status_code == 200
    client.now = UNASKED_S + 1
    for answer in (client.search(text="colon"), client.get("/cases?slide=b1")):
        assert refusal(answer) == (503, "withdrawals-unknown")
    client.holding.leave_out(frozenset(), client.now)
    assert client.search(text="colon").status_code == 200


@pytest.mark.parametrize("what", ["index", "networks"])
def test_while_index_or_model_are_away_the_answer_is_503(client: SearchClient, lab: SearchLab, what: str):
    getattr(lab, what).error = TransientError("some-outage", "It is away.", hint="Wait.")
    answer = client.search(text="colon")
    assert refusal(answer) == (503, "some-outage")
    assert "retry-after" in answer.headers


def test_a_fatal_error_is_answered_and_stops_the_service(client: SearchClient, lab: SearchLab):
    lab.networks.error = FatalError("inference-other-model", "It is another.", hint="Export.")
    assert refusal(client.search(text="colon")) == (503, "inference-other-model")
    assert client.stop.requested


def test_what_a_search_comes_to_is_counted(client: SearchClient, lab: SearchLab):
    before = {one: searches("text-cases", one) for one in ("found", "none", "refused", "unavailable")}
    client.search(text="colon")
    client.search(text="colon", since="2030-01-01")
    client.search(text="colon", organ="Lung")
    lab.networks.error = TransientError("inference-unavailable", "away")
    client.search(text="colon")
    assert {one: searches("text-cases", one) - before[one] for one in before} == dict.fromkeys(before, 1)


class _Hanging:
    """A store whose every call waits until it may go on."""

    def __init__(self) -> None:
        self.go_on, self.entered = threading.Event(), threading.Semaphore(0)

    def __getattr__(self, _: str) -> Any:
        def hang(*_: Any, **__: Any) -> Any:
            self.entered.release()
            self.go_on.wait(30)
            raise TransientError("storage-unavailable", "It was slow.", hint="Wait.")

        return hang


def test_a_store_that_hangs_holds_up_only_those_who_need_it(lab: SearchLab):
    store = _Hanging()
    lab.searcher = replace(lab.searcher, store=store)
    client = SearchClient(lab, threads=2, patience_s=20)

    async def race() -> tuple[list[httpx.Response], list[httpx.Response]]:
        stuck = [asyncio.ensure_future(client.slide(f"n{i}")) for i in range(6)]
        await asyncio.to_thread(store.entered.acquire)
        quick = [await client.send("POST", "/search", json={"text": "colon"}) for _ in range(3)]
        quick += [await client.slide("b1")]
        quick += [await client.send("GET", page) for page in ("/healthz", "/state", "/cases?slide=b1")]
        assert not any(one.done() for one in stuck)
        store.go_on.set()
        return quick, list(await asyncio.gather(*stuck))

    quick, slow = asyncio.run(race())
    assert [answer.status_code for answer in quick] == [200] * 7
    assert {refusal(answer) for answer in slow} == {(503, "storage-unavailable")}


def test_a_search_that_takes_too_long_is_given_up(lab: SearchLab):
    store = _Hanging()
    lab.searcher = replace(lab.searcher, store=store)
    client = SearchClient(lab, patience_s=0.2)
    assert refusal(client.search(slide="new")) == (503, "search-slow")
    store.go_on.set()


def test_more_searches_than_may_wait_are_told_to_come_again(lab: SearchLab):
    store = _Hanging()
    lab.searcher = replace(lab.searcher, store=store)
    client = SearchClient(lab, threads=1, waiting=0)

    async def crowd() -> list[httpx.Response]:
        first = [asyncio.ensure_future(client.slide(f"n{i}")) for i in range(2)]
        await asyncio.to_thread(store.entered.acquire)
        late = await client.send("POST", "/search", json={"text": "colon"})
        store.go_on.set()
        return [late, *await asyncio.gather(*first)]

    late, *_ = asyncio.run(crowd())
    assert refusal(late) == (503, "search-busy")
    assert refusal(asyncio.run(client.send("POST", "/search", json={"text": ""}, headers=bearer())))[0] == 422

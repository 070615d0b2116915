"""One handler runs every job: it refuses other events, and publishes what follows in the service's name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, ReportDrafted, SlideScanned
from histgen_lib.pipeline.job import Done, ModelInUse, silent
from histgen_lib.worker.handler import JobHandler, Outcome

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BAG = BagReady("a", "file:///a.tif", "0" * 64, "bags/a/1.parquet", "bags/a/1.scan.json", "1", 10, 3)
DRAFT = ReportDrafted("a", "2", "reports/a/2/draft.json", abstained=False)


@dataclass
class Answering:
    """A job that answers what it was made with."""

    found: Done[ReportDrafted] | None
    takes = (BagReady,)

    def find(self, event, data):
        assert event.data is data
        return self.found

    def run(self, event, data, progress):
        progress("open", 1, 1)
        return self.found or Done(DRAFT, {"stage:open": 1.0})

    def lacking(self):
        return ["model histgen"]

    def models(self):
        return [ModelInUse("histgen", "a", "0123456789ab", "onnx")]


def event_with(data) -> Event:
    return Event.first(data, source="/histgen/test", now=NOW, identity="it")


def handler(found: Done[ReportDrafted] | None = None) -> JobHandler[BagReady, ReportDrafted]:
    return JobHandler(Answering(found), "reporter", now=lambda: NOW)


def test_what_follows_is_published_in_the_services_name():
    event = event_with(BAG)
    outcome = handler().handle(event, silent)
    (following,), (found,) = outcome.events, handler(Done(DRAFT)).find(event).events
    expected = event.then(DRAFT, source="/histgen/reporter", now=NOW)

    assert outcome.measures == {"stage:open": 1.0}
    assert replace(following, traceparent=expected.traceparent) == expected
    assert found.id == expected.id
    assert following.trace_id == found.trace_id == event.trace_id


def test_the_jobs_models_are_the_handlers():
    assert handler().models() == [ModelInUse("histgen", "a", "0123456789ab", "onnx")]


def test_what_is_not_done_is_not_found():
    assert handler().find(event_with(BAG)) is None


def test_a_job_after_which_nothing_follows_yet_is_done_all_the_same():
    assert handler(Done(None, {"stage:open": 2.0})).handle(event_with(BAG), silent) == Outcome(
        (), {"stage:open": 2.0}
    )
    assert handler(Done(None)).find(event_with(BAG)) == Outcome()


def test_a_job_may_name_the_event_that_follows():
    (following,) = handler(Done(DRAFT, event_id="ab" * 16)).handle(event_with(BAG), silent).events

    assert following.id == "ab" * 16


def test_an_event_of_another_type_is_refused_with_both_types_named():
    scanned = event_with(SlideScanned("a", "file:///a.tif", "0" * 64, 10))
    for call in (handler().find, lambda event: handler().handle(event, silent)):
        with pytest.raises(
            InvalidInputError, match=r"works on bag\.ready events; .* slide\.scanned"
        ) as caught:
            call(scanned)
        assert caught.value.code == "event-type"
        assert caught.value.hint


def test_what_the_job_lacks_is_what_the_handler_is_not_ready_for():
    assert handler().ready() == ["model histgen"]

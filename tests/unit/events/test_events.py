"""Events say what they mean in Kafka's binary mode, and nothing else gets through."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import (
    TOPICS,
    BagReady,
    CaseWithdrawn,
    Data,
    DeadLettered,
    Event,
    ReportDrafted,
    ReportSigned,
    SlideScanned,
)

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SCANNED = SlideScanned("S-1", "file:///scans/S-1.svs", "ab" * 32, 5_000, 0.25, "C-9", ("S-1", "S-2"))
SAMPLES: list[Data] = [
    SCANNED,
    SlideScanned("Präparat 7", "s3://scans/7.mrxs", "cd" * 32, 0),
    BagReady("S-1", "file:///s", "ab" * 32, "bags/S-1/d.parquet", "bags/S-1/d.scan.json", "d", 9, 3),
    ReportDrafted("S-1", "d", "reports/S-1/d/draft.json", abstained=True),
    ReportSigned("S-1", "d", "signed/S-1/d.json"),
    CaseWithdrawn("C-9", "withdrawn/case/C-9.json", case_id="C-9"),
    DeadLettered("S-1", "e1", "slide.scanned", "slide-damaged", "dead-letter/e1.json"),
]
PATIENT = "NACHNAME^VORNAME"


def scanned(now: datetime = NOW) -> Event:
    return Event.first(SCANNED, source="histgen/gateway", now=now, identity="file:///scans/S-1.svs|abab")


def reread(event: Event) -> Event:
    return Event.read(event.headers(), event.body())


def refusal(headers: dict[str, Any], body: bytes) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        Event.read(headers, body)
    return caught.value


@pytest.mark.parametrize("data", SAMPLES, ids=lambda data: data.type)
def test_an_event_survives_the_round_trip(data: Data) -> None:
    event = Event.first(data, source="histgen/test", now=NOW, identity="x")
    assert reread(event) == event
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_every_kind_of_data_has_a_sample_and_a_topic() -> None:
    assert {type(sample) for sample in SAMPLES} == set(get_args(Data))
    assert {sample.type for sample in SAMPLES} <= set(TOPICS)


def test_headers_are_those_of_cloudevents_binary_mode() -> None:
    headers = scanned().headers()
    assert headers | {"ce_traceparent": "", "traceparent": ""} == {
        "ce_specversion": "1.0",
        "ce_id": scanned().id,
        "ce_type": "slide.scanned",
        "ce_source": "histgen/gateway",
        "ce_subject": "S-1",
        "ce_time": "2026-03-01T12:30:00+00:00",
        "ce_schemaversion": "1",
        "ce_scannedat": "2026-03-01T12:30:00+00:00",
        "ce_replay": "0",
        "ce_traceparent": "",
        "traceparent": "",
        "content-type": "application/json",
    }
    assert headers["traceparent"] == headers["ce_traceparent"]


def test_the_same_thing_reported_again_has_the_same_id() -> None:
    first, second = scanned(), scanned(NOW + timedelta(hours=1))
    assert first.id == second.id
    assert first.trace_id != second.trace_id


def test_the_name_of_a_foreign_event_never_changes() -> None:
    """Letters and attempts lie by it; a new optional field must not rename those that are there."""
    event = Event("17", "/scanner/1", replace(SCANNED, mpp=None), NOW, NOW, scanned().traceparent)
    assert event.name == "17.87b3f8357521c6ee37927f751c4c5cd5"
    assert reread(event).name == event.name
    assert replace(event, time=NOW + timedelta(1), traceparent=scanned().traceparent).name == event.name


def test_a_case_and_a_slide_of_one_id_have_keys_of_their_own() -> None:
    drafted = ReportDrafted("S-1", "d", "k", abstained=False)
    event = Event.first(drafted, source="x", now=NOW, identity="x")
    of_case = replace(event, data=replace(drafted, case_id="S-1"))
    assert (event.key, of_case.key) == ("S-1", "case/S-1")
    assert reread(of_case) == of_case


def test_a_following_event_has_a_derived_id_and_the_same_trace() -> None:
    later = NOW + timedelta(minutes=2)
    parent = scanned()
    child, again = (parent.then(SAMPLES[2], source="histgen/tiler", now=later) for _ in range(2))
    assert child.id == again.id != parent.id
    assert child.trace_id == parent.trace_id
    assert child.traceparent != parent.traceparent
    assert (child.time, child.scanned_at) == (later, NOW)


def test_a_replay_has_an_id_of_its_own_and_counts() -> None:
    once = scanned().again(now=NOW)
    assert once.id == scanned().again(now=NOW + timedelta(days=1)).id
    assert len({scanned().id, once.id, once.again(now=NOW).id}) == 3
    assert (reread(once).replay, once.again(now=NOW).replay) == (1, 2)


def test_times_are_converted_to_utc() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    headers = scanned().headers() | {"ce_time": elsewhere.isoformat()}
    assert Event.read(headers, scanned().body()).headers()["ce_time"] == "2026-03-01T12:30:00+00:00"


def test_a_producer_may_omit_what_has_a_default() -> None:
    event = scanned()
    required = ("ce_id", "ce_type", "ce_source", "ce_time", "traceparent")
    headers = {name: event.headers()[name] for name in required}
    body = json.dumps({"slide_id": "S-1", "uri": "file:///s", "content_id": "ab", "size_bytes": 3}).encode()
    read = Event.read(headers, body)
    assert (read.scanned_at, read.replay, read.data) == (NOW, 0, SlideScanned("S-1", "file:///s", "ab", 3))
    nulls = json.loads(body) | dict.fromkeys(("mpp", "case_id", "case_slides", "turn"))
    assert Event.read(headers, json.dumps(nulls).encode()) == read


def test_a_patients_name_in_unknown_headers_and_fields_is_dropped() -> None:
    event = scanned()
    body = json.dumps(asdict(event.data) | {"patient": PATIENT, "label": {"text": PATIENT}}).encode()
    headers = event.headers() | {"ce_patient": PATIENT, "x-label": PATIENT, "ce_subject": PATIENT}
    read = Event.read(headers, body)
    assert read == event
    assert PATIENT not in json.dumps(read.to_json())
    assert PATIENT.encode() not in read.body()


@pytest.mark.parametrize("name", [f.name for f in fields(SlideScanned)])
@pytest.mark.parametrize("planted", [{"name": PATIENT}, [{"name": PATIENT}], PATIENT + "\n"], ids=str)
def test_a_patients_name_in_a_value_of_the_wrong_kind_is_refused_and_never_repeated(
    name: str, planted: Any
) -> None:
    body = json.dumps(asdict(SCANNED) | {name: planted}).encode()
    error = refusal(scanned().headers(), body)
    assert error.code == "event-unreadable"
    assert f"({name})" in error.message
    assert PATIENT not in repr(error) + str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_id", PATIENT),
        ("ce_id", "../../etc"),
        ("ce_id", ""),
        ("ce_source", f"lab {PATIENT}"),
        ("ce_time", PATIENT),
        ("ce_time", "2026-03-01T12:30:00"),  # of no zone
        ("ce_time", "0001-01-01T00:00:00+14:00"),  # before UTC's first year
        ("ce_scannedat", PATIENT),
        ("ce_traceparent", PATIENT),
        ("ce_replay", PATIENT),
        ("ce_replay", "-1"),
    ],
)
def test_a_malformed_header_is_named_and_its_value_is_not_repeated(name: str, value: str) -> None:
    error = refusal(scanned().headers() | {name: value}, scanned().body())
    assert (error.code, f"({name})" in error.message) == ("event-unreadable", True)
    assert PATIENT not in repr(error)


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_time"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = scanned().headers()
    del headers[name]
    assert f"({name})" in refusal(headers, scanned().body()).message


@pytest.mark.parametrize("name", ["slide_id", "uri", "content_id", "size_bytes"])
def test_a_missing_field_is_named(name: str) -> None:
    body = {key: value for key, value in asdict(SCANNED).items() if key != name}
    assert f"({name})" in refusal(scanned().headers(), json.dumps(body).encode()).message


@pytest.mark.parametrize("slide_id", ["", ".", "..", "a/b", "a\\b", "a\x00b", "a\x9b2J", "\ud800", "é" * 101])
def test_a_slide_id_that_cannot_be_part_of_an_objects_key_is_refused(slide_id: str) -> None:
    body = json.dumps(asdict(SCANNED) | {"slide_id": slide_id}).encode()
    assert "(slide_id)" in refusal(scanned().headers(), body).message


def test_a_field_that_occurs_twice_is_refused() -> None:
    body = scanned().body().replace(b'"mpp":0.25', b'"mpp":0.25,"mpp":0.5')
    assert refusal(scanned().headers(), body).code == "event-unreadable"


def test_a_digest_in_upper_case_is_the_same_digest() -> None:
    """As PowerShell's Get-FileHash and certutil write it."""
    body = json.dumps(asdict(SCANNED) | {"content_id": "AB"}).encode()
    read = Event.read(scanned().headers(), body)
    assert isinstance(read.data, SlideScanned)
    assert read.data.content_id == "ab"


@pytest.mark.parametrize("mpp", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "true", '"0.25"'])
def test_a_resolution_that_is_not_a_finite_number_is_refused(mpp: str) -> None:
    body = scanned().body().replace(b'"mpp":0.25', f'"mpp":{mpp}'.encode())
    assert refusal(scanned().headers(), body).code == "event-unreadable"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"null", b'"x"', b"[" * 100_000, b"{" * 100_000])
def test_bytes_that_are_not_a_json_object_are_refused(body: bytes) -> None:
    assert refusal(scanned().headers(), body).code == "event-unreadable"


def test_another_version_or_type_has_a_code_of_its_own() -> None:
    assert refusal(scanned().headers() | {"ce_schemaversion": "2"}, b"{}").code == "event-version"
    assert refusal(scanned().headers() | {"ce_type": "slide.lost"}, b"{}").code == "event-type"
    assert refusal({}, b"{}").code == "event-type"


@pytest.mark.parametrize(
    "value", [{}, {"headers": None}, {"headers": [], "data": {}}, {"headers": {"ce_type": ["x"]}}]
)
def test_json_that_is_not_an_event_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Event.from_json(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from([f.name for f in fields(BagReady)]), JSON)
HEADERS = st.dictionaries(st.sampled_from(sorted(scanned().headers())), st.text())


@given(headers=HEADERS, changed=FIELDS, raw=st.none() | st.binary())
def test_any_input_gives_an_event_or_a_refusal(
    headers: dict[str, str], changed: dict[str, Any], raw: bytes | None
) -> None:
    """No input ends in another exception; and what was read can be written and read again."""
    body = json.dumps(asdict(SAMPLES[2]) | changed).encode() if raw is None else raw
    event = None
    with contextlib.suppress(InvalidInputError):
        event = Event.read(scanned().headers() | {"ce_type": "bag.ready"} | headers, body)
    assert event is None or reread(event) == event


NAMES = st.text(min_size=1, max_size=40).filter(lambda name: name.strip(".") and not set(name) & set("/\\"))


@given(slide_id=NAMES, size=st.integers(0), mpp=st.none() | st.floats(0.01, 10))
def test_any_valid_slide_survives_the_round_trip(slide_id: str, size: int, mpp: float | None) -> None:
    data = SlideScanned(slide_id, "file:///s", "ab", size, mpp)
    event = Event.first(data, source="histgen/test", now=NOW, identity=slide_id)
    if slide_id.isprintable():
        assert reread(event) == event

"""New slides in bucket notifications are taken in; everything else in them is ignored and not passed on."""

from __future__ import annotations

import json

import pytest
from gateway_fakes import GatewayLab
from hypothesis import given
from hypothesis import strategies as st
from notification_bodies import (
    SECRETS,
    SUBSCRIBE_TOKEN,
    TEST_EVENT,
    amazon,
    bridge,
    by_lambda,
    by_pipes,
    confirmation,
    minio,
    minio_summary,
    one_by_pipes,
    one_message,
    received,
    record,
    sns,
    sqs,
)

from histgen_lib.access.places import ObjectPlace, Roots, parse_uri
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.files import sha256_hex
from services.gateway import notifications
from services.gateway.bucket_intake import Outcome, take_in


def _new(body: bytes) -> list[ObjectPlace]:
    return [new.place for new in notifications.read(body).new]


@pytest.mark.parametrize(
    "body",
    [
        amazon(record("lab", "in/a.svs")),
        amazon(record("lab", "in/a.svs", event="s3:ObjectCreated:Copy")),
        minio("lab", "in/a.svs"),
        json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "lab/in/a.svs"}).encode(),
        json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "lab/in/a.svs", "Records": None}).encode(),
    ],
)
def test_a_new_slide_is_read_from_every_dialect(body: bytes):
    assert _new(body) == [ObjectPlace("lab", "in/a.svs")]


@pytest.mark.parametrize("key", ["in/a b.svs", "in/Präparat №1+2 (50%).svs", "切片.tiff", "a+b.svs"])
def test_keys_are_decoded_as_they_were_encoded(key: str):
    assert _new(amazon(record("lab", key))) == [ObjectPlace("lab", key)]


@pytest.mark.parametrize(
    "body",
    [
        TEST_EVENT,
        amazon(),
        amazon(record("lab", "a.svs", event="ObjectRemoved:Delete")),
        amazon(record("lab", "a.svs", event="s3:ObjectAccessed:Get")),
        amazon(record("lab", "a.svs.json")),
        amazon(record("lab", "reports/a/thumbnail.webp")),
        amazon(record("lab", "folder.svs/")),
    ],
)
def test_events_other_than_new_slides_are_ignored(body: bytes):
    assert _new(body) == []
    assert notifications.read(body).malformed == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"null", b"[]", b'"x"', b"{}", b'{"Records": {}}', b'{"Records": 1}', b"[" * 100_000],
)
def test_a_body_that_is_not_a_notification_is_unreadable(body: bytes):
    with pytest.raises(InvalidInputError) as caught:
        notifications.read(body)
    assert caught.value.code == "notification-unreadable"


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {"eventName": "ObjectCreated:Put"},
        {"eventName": 1, "s3": {"bucket": {"name": "lab"}, "object": {"key": "a.svs"}}},
    ],
)
def test_a_malformed_record_does_not_hide_a_sound_one(bad):
    found = notifications.read(amazon(bad, record("lab", "a.svs")))
    assert [new.place.key for new in found.new] == ["a.svs"]
    assert found.malformed == 1


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (record("lab", "", encoded="%ff.svs"), "s3://lab/%ff.svs"),
        (record("l b", "a.svs"), "s3://l b/a.svs"),
        (record("lab", "../a.svs"), "s3://lab/../a.svs"),
        (record("lab", "in/./a.svs"), "s3://lab/in/./a.svs"),
        (record("lab", "", encoded="\ud800.svs"), "s3://lab/\\ud800.svs"),
        (record("lab", "a\x1b[2J.svs"), "s3://lab/a\\x1b[2J.svs"),
        (record("lab", "a\n.svs"), "s3://lab/a\\n.svs"),
        (record("lab", f"{'a' * 1021}.svs"), f"s3://lab/{'a' * 1021}.svs"),
    ],
)
def test_an_impossible_object_is_refused_by_name_beside_a_sound_one(lab: GatewayLab, bad, name):
    lab.object("lab", "a.svs")
    found = _take(lab, amazon(bad, record("lab", "a.svs")))

    assert [event.key for event in lab.bus.scanned] == ["a"]
    (letter,) = [json.loads(data) for key, data in lab.store.kept.items() if key.startswith("dead-letter/")]
    assert letter["code"] in ("uri-invalid", "notification-unreadable")
    assert f"({name})" in letter["message"]
    assert (found[0].uri, found[0].receipt) == (name, None)


KEYS = [
    "a//b.svs",
    "/b.svs",
    "//b.svs",
    "in /b.svs",
    "b.svs ",
    " b.svs",
    "b%20c+d&=?#.svs",
    f"{'a' * 300}/{'b' * 300}.svs",
    f"{'切' * 330}.svs",
    f"{'a' * 1020}.svs",
]
"""Keys as S3 takes them, and as no file system does."""


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("write", [lambda key: amazon(record("lab", key)), minio_summary, bridge])
def test_a_slide_is_taken_under_any_key_that_s3_accepts(lab: GatewayLab, key: str, write):
    lab.object("lab", key)
    (found,) = _take(lab, write(key))

    assert found.error is None
    (event,) = lab.bus.scanned
    assert parse_uri(event.data.uri) == ObjectPlace("lab", key)
    assert len(event.key) <= 128


@pytest.mark.parametrize("key", ["a+b.svs", "a%20b.svs", "a b.svs", "Präparat%2F1.svs"])
def test_eventbridge_does_not_encode_keys(key: str):
    assert _new(bridge(key)) == [ObjectPlace("lab", key)]


@pytest.mark.parametrize("kind", ["Object Deleted", "Object Restore Completed", "Object Tags Added", 7])
def test_other_eventbridge_events_are_ignored(kind):
    assert notifications.read(bridge("a.svs", kind=kind)) == notifications.Notification(ignored=1)


@pytest.mark.parametrize(
    "inner", [amazon(record("lab", "a b.svs")), minio("lab", "a b.svs"), bridge("a b.svs")]
)
@pytest.mark.parametrize(
    "envelope",
    [
        sns,
        sqs,
        lambda body: sqs(sns(body)),
        received,
        lambda body: received(sns(body)),
        lambda body: one_message(sns(body)),
        by_pipes,
        one_by_pipes,
        by_lambda,
    ],
)
def test_a_notification_is_unwrapped_from_its_envelopes(inner: bytes, envelope):
    assert _new(envelope(inner)) == [ObjectPlace("lab", "a b.svs")]


def test_a_faulty_envelope_does_not_hide_the_next():
    found = notifications.read(sqs(b"broken", confirmation(), amazon(record("lab", "a.svs")), TEST_EVENT))
    assert [new.place.key for new in found.new] == ["a.svs"]
    assert found.malformed == 2


def test_too_deeply_nested_envelopes_are_unreadable():
    body = amazon(record("lab", "a.svs"))
    for _ in range(9):
        body = sns(body)
    with pytest.raises(InvalidInputError) as caught:
        notifications.read(body)
    assert caught.value.code == "notification-unreadable"


@pytest.mark.parametrize("wrap", [bytes, sqs])
def test_a_subscription_is_confirmed_by_a_person_and_no_address_is_opened(lab: GatewayLab, monkeypatch, wrap):
    def connected(*_: object) -> None:
        raise AssertionError("an address was opened")

    monkeypatch.setattr("socket.socket.connect", connected)
    (found,) = _take(lab, wrap(confirmation()))
    assert found.error.code == "notification-unconfirmed"
    assert "SubscribeURL" in found.error.hint
    assert SUBSCRIBE_TOKEN.encode() not in b"".join(lab.store.kept.values())


def test_a_key_with_one_reading_inside_the_roots_is_missing_not_outside(lab: GatewayLab):
    lab.restarted(Roots((), ("lab/scan results/",)))
    (found,) = _take(lab, amazon(record("lab", "scan results/gone.svs")))
    assert found.error.code == "slide-missing"


def test_too_many_records_in_all_envelopes_together_are_refused():
    many = amazon(*[record("lab", "a.svs")] * 600)
    with pytest.raises(InvalidInputError) as caught:
        notifications.read(sqs(many, many))
    assert caught.value.code == "notification-unreadable"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values, json_values, json_values)
def test_any_notification_is_read_or_unreadable(name, bucket, key, whole):
    nested = {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
    detail = {"bucket": {"name": bucket}, "object": {"key": key}}
    bridged = {"detail-type": "Object Created", "detail": detail}
    for value in (
        *(whole, {"Records": whole}, {"Records": [nested, whole]}, {"EventName": name, "Key": key}),
        *(bridged, {"detail-type": name, "detail": whole}, {"Type": "Notification", "Message": whole}),
        *({"Messages": whole}, {"Records": [{"body": whole}, {"Sns": whole}]}),
        {"MessageId": 1, "Body": whole},
    ):
        code = ""
        try:
            notifications.read(json.dumps(value).encode())
        except InvalidInputError as error:
            code = error.code
        assert code in ("", "notification-unreadable")


def _take(lab: GatewayLab, body: bytes, position: str = "s3.notifications/0/7") -> list[Outcome]:
    return take_in(lab.intake, body, position)


def test_only_the_objects_place_survives_of_a_notification(lab: GatewayLab):
    lab.object("lab", "a.svs")
    _take(lab, minio("lab", "a.svs"))
    _take(lab, amazon(record("lab", "gone.svs"), {"eventName": SECRETS[0]}))
    (event,) = lab.bus.scanned
    assert event.data.uri == "s3://lab/a.svs"
    everything = b"".join(lab.store.kept.values()) + repr(lab.bus.published).encode()
    everything += repr(sorted(lab.store.kept)).encode()
    for secret in (*SECRETS, "C3D13FE58DE4C810", "x-amz-meta", "principalId"):
        assert secret.encode() not in everything


def test_a_slide_in_two_notifications_is_read_and_announced_once(lab: GatewayLab):
    lab.object("lab", "a.svs")
    _take(lab, amazon(record("lab", "a.svs")))
    (again,) = _take(lab, minio("lab", "a.svs"))
    assert again.receipt.status == "duplicate"
    assert lab.buckets["lab"].reads == 1


def test_an_overwritten_object_is_a_rescan(lab: GatewayLab):
    lab.object("lab", "a.svs", b"one")
    _take(lab, amazon(record("lab", "a.svs")))
    lab.object("lab", "a.svs", b"two")
    (again,) = _take(lab, amazon(record("lab", "a.svs")))
    assert again.receipt.status == "rescan"


def test_a_key_that_its_store_did_not_encode_is_found_as_it_stands(lab: GatewayLab):
    lab.object("lab", "a+b%20c.svs")
    (found,) = _take(lab, amazon(record("lab", "", encoded="a+b%20c.svs")))
    assert found.receipt.status == "accepted"
    assert lab.bus.scanned[0].data.uri == "s3://lab/a+b%20c.svs"


def test_an_unreadable_notification_becomes_a_dead_letter_without_its_bytes(lab: GatewayLab):
    body = f'{{"patient": "{SECRETS[0]}"}}'.encode()
    _take(lab, body)
    ((key, stored),) = lab.store.kept.items()
    letter = json.loads(stored)
    assert key == f"dead-letter/{letter['event_id']}.json"
    assert (letter["code"], letter["position"]) == ("notification-unreadable", "s3.notifications/0/7")
    assert (letter["sha256"], letter["size_bytes"]) == (sha256_hex(body), len(body))
    assert SECRETS[0].encode() not in stored
    assert lab.bus.letters[0].data.key == key


def test_taken_twice_a_notification_leaves_one_dead_letter(lab: GatewayLab):
    for _ in range(2):
        _take(lab, b"broken")
    assert len(lab.store.kept) == 1
    assert len({event.id for event in lab.bus.letters}) == 1


def test_each_refused_object_has_a_dead_letter_that_names_it(lab: GatewayLab):
    lab.object("lab", "b.svs")
    found = _take(
        lab,
        amazon(
            record("lab", "gone.svs"),
            record("private", "x.svs"),
            record("lab", "m.mrxs"),
            record("lab", "b.svs"),
        ),
    )
    assert [one.error and one.error.code for one in found] == [
        "slide-missing",
        "uri-outside-roots",
        "slide-in-parts",
        None,
    ]
    letters = [json.loads(data) for key, data in lab.store.kept.items() if key.startswith("dead-letter/")]
    assert {letter["code"] for letter in letters} == {"slide-missing", "uri-outside-roots", "slide-in-parts"}
    assert any("s3://lab/gone.svs" in letter["message"] for letter in letters)
    assert [event.key for event in lab.bus.scanned] == ["b"]


def test_a_taken_id_has_one_dead_letter_not_two(lab: GatewayLab):
    lab.object("lab", "one/a.svs", b"one")
    lab.object("lab", "two/a.svs", b"two")
    _take(lab, amazon(record("lab", "one/a.svs"), record("lab", "two/a.svs")))
    assert [event.data.code for event in lab.bus.letters] == ["slide-id-taken"]


def test_an_object_that_changes_while_it_is_read_is_read_again(lab: GatewayLab):
    lab.object("lab", "a.svs", b"0123456789")
    bucket = lab.buckets["lab"]

    def written_anew():
        bucket.on_read = lambda: None
        lab.object("lab", "a.svs", b"9876543210")

    bucket.on_read = written_anew
    (found,) = _take(lab, amazon(record("lab", "a.svs")))
    assert found.receipt.status == "accepted"
    assert lab.bus.scanned[0].data.content_id == sha256_hex(b"9876543210")


def test_during_a_store_outage_the_notification_stays_to_be_taken_again(lab: GatewayLab):
    lab.object("lab", "a.svs")
    lab.store.away = True
    with pytest.raises(TransientError):
        _take(lab, amazon(record("lab", "a.svs")))
    lab.store.away = False
    (found,) = _take(lab, amazon(record("lab", "a.svs")))
    assert found.receipt.status == "accepted"

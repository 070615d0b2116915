"""Bucket notifications on a real Kafka, slides and ledger in a real S3 server."""

from __future__ import annotations

import json
import secrets
from urllib.parse import quote_plus

import pytest
from gateway_process import GatewayProcess, Listener, letters
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.files import sha256_hex


@pytest.fixture
def run_id() -> str:
    """Distinguish this test's slides and topic from others on the same broker."""
    return secrets.token_hex(6)


def _notification(bucket: str, *keys: str, event: str = "s3:ObjectCreated:Put") -> bytes:
    """Write what MinIO sends, with a patient's name."""
    records = [
        {
            "eventName": event,
            "userIdentity": {"principalId": "Erika Mustermann"},
            "s3": {
                "bucket": {"name": bucket},
                "object": {
                    "key": quote_plus(key),
                    "size": 1,
                    "userMetadata": {"x-amz-meta-patient": "Erika Mustermann"},
                },
            },
        }
        for key in keys
    ]
    return json.dumps({"EventName": event, "Key": f"{bucket}/{keys[0]}", "Records": records}).encode()


def test_notifications_on_kafka_become_events_and_poison_dead_letters_across_a_restart(
    gateways, kafka, s3proxy_server, run_id
):
    s3_server, s3_bucket = s3proxy_server, s3proxy_server.make_bucket()
    client = s3_server.client(s3_bucket)
    lab = s3_server.make_bucket()
    bus = BusSettings(kafka.url, partitions=3)
    publisher = open_publisher(bus)
    topic = f"notifications-{run_id}"
    gateway: GatewayProcess = gateways(
        bus=kafka.url,
        bus_partitions=3,
        bus_session_s=6,
        store=f"s3://{s3_bucket}/histgen",
        store_endpoint=s3_server.endpoint,
        store_region="us-east-1",
        roots=f"s3://{lab}",
        notifications=topic,
    ).start()
    heard, given_up = Listener(bus, group=f"heard-{run_id}"), letters(bus, group=f"letters-{run_id}")

    def put(name: str) -> str:
        key = f"in/{run_id} {name}+ä.svs"
        client.put_object(Bucket=lab, Key=key, Body=key.encode())
        return key

    def announced() -> dict[str, str]:
        found = [event.data for event in heard.hear() if f"/{run_id}" in event.data.uri]
        return {data.uri: data.content_id for data in found}

    first, second = put("a"), put("b")
    for body in (
        b"\xffpoison Erika Mustermann",
        _notification(lab, first, second),
        _notification(lab, first, event="s3:ObjectRemoved:Delete"),
        _notification(lab, f"{run_id} gone.svs"),
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}).encode(),
    ):
        publisher.publish_raw(topic, "key", body)
    expected = {f"s3://{lab}/{key}": sha256_hex(key.encode()) for key in (first, second)}
    until(lambda: announced() == expected, 60, "both slides are announced")

    def codes() -> list[str]:
        """List the codes of this gateway's dead letters, from its own store."""
        found = [event.data for event in given_up.hear()]
        return sorted(data.code for data in found if gateway.store.head(data.key))

    until(lambda: codes() == ["notification-unreadable", "slide-missing"], 60, "two dead letters")
    gateway.kill()
    third = put("c")
    envelope = {"Type": "Notification", "TopicArn": "x", "Message": _notification(lab, third).decode()}
    publisher.publish_raw(topic, "key", json.dumps(envelope).encode())
    publisher.publish_raw(topic, "key", _notification(lab, first))
    gateway.start()
    expected[f"s3://{lab}/{third}"] = sha256_hex(third.encode())
    until(lambda: announced() == expected, 60, "the slide that came meanwhile is announced")
    ids = [event.id for event in heard.hear() if f"/{run_id}" in event.data.uri]
    assert len(set(ids)) == 3
    stored = b"".join(gateway.store.get(info.key) for info in gateway.store.list())
    assert b"Mustermann" not in stored
    assert "Mustermann" not in gateway.log.read_text() + repr(heard.events)
    for thing in (heard, given_up, publisher):
        thing.close()

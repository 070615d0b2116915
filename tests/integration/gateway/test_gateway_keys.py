"""A slide comes in under any key that S3 accepts: by notifications in every envelope, and by a backfill."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from urllib.parse import quote_plus

import pytest
from gateway_process import GatewayProcess

from histgen_lib.catalogue.overview import Overview
from histgen_lib.files import sha256_hex
from histgen_lib.storage import StorageSettings, open_foreign_bucket

ODD = [
    *("a//b1.svs", "/b2.svs", "//b3.svs", "in /b4.svs", "b5.svs ", " b6.svs", "b7%20c+d&=?#.svs"),
    *(f"{'a' * 300}/{'b' * 300}.svs", f"{'切' * 330}.svs", f"{'c' * 1020}.svs"),
]
IMPOSSIBLE = ["a/../b.svs", "a/./c.svs"]
OTHERS = ["notes.txt", "a/readme", "folder/", "folder.svs/"]


def classic(bucket: str, key: str) -> dict[str, Any]:
    """Write a notification in S3's own format."""
    s3 = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key)}}
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": s3}]}


def bridge(bucket: str, key: str) -> dict[str, Any]:
    """Write an event of Amazon EventBridge."""
    return {"detail-type": "Object Created", "detail": {"bucket": {"name": bucket}, "object": {"key": key}}}


def sns(body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a notification as Amazon SNS does."""
    return {"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": json.dumps(body)}


def sqs(body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a notification as Amazon SQS does."""
    return {"MessageId": "1", "Body": json.dumps(body)}


@pytest.fixture
def bucket(moto_server) -> str:
    """Fill a bucket with every kind of key that S3 accepts."""
    name = moto_server.make_bucket()
    client = moto_server.client(name)
    for key in (*ODD, *IMPOSSIBLE, *OTHERS):
        client.put_object(Bucket=name, Key=key, Body=key.encode())
    return name


@pytest.fixture
def gateway(gateways, moto_server, bucket, monkeypatch) -> GatewayProcess:
    """Start a gateway that takes slides from the bucket and keeps its records in a folder."""
    for name, value in (("STORE_ENDPOINT", moto_server.endpoint), ("STORE_REGION", "us-east-1")):
        monkeypatch.setenv(f"HISTGEN_{name}", value)
    return gateways(
        roots=f"s3://{bucket}", store_endpoint=moto_server.endpoint, store_region="us-east-1"
    ).start()


def test_a_slide_under_any_s3_key_is_announced_once_and_found_by_its_uri(
    gateway: GatewayProcess, bucket: str, moto_server
):
    answers = []
    for number, key in enumerate(ODD):
        body = (classic, bridge)[number % 2](bucket, key)
        answer = gateway.post("/s3-events", (sns, sqs, dict)[number % 3](body))
        assert answer.status_code == 202, answer.text
        answers += answer.json()["slides"]
    assert [one.get("status") for one in answers] == ["accepted"] * len(ODD), answers

    settings = StorageSettings("s3://any", endpoint=moto_server.endpoint, region="us-east-1")
    slides = open_foreign_bucket(settings, bucket)
    events = [slide.event.data for slide in Overview(gateway.store).slides()]
    assert {event.uri for event in events} == {f"s3://{bucket}/{key}" for key in ODD}
    for event in events:
        content = b"".join(slides.chunks(event.uri.removeprefix(f"s3://{bucket}/")))
        assert sha256_hex(content) == event.content_id


def test_a_backfill_takes_all_keys_and_names_what_it_leaves_out(gateway: GatewayProcess, bucket: str):
    command = [sys.executable, "-m", "histgen_lib.cli", "backfill", f"s3://{bucket}", "--json"]
    stack = ["--store", f"file:{gateway.home}/store", "--bus", gateway.bus.url]
    run = subprocess.run([*command, *stack], capture_output=True, text=True, check=False)
    content = json.loads(run.stdout)
    assert content["outcomes"] == {"accepted": len(ODD), "refused": len(IMPOSSIBLE)}
    assert {one["uri"] for one in content["slides"] if one["error"]} == {
        f"s3://{bucket}/{key}" for key in IMPOSSIBLE
    }
    assert content["left_out"] == [
        {"name": f"s3://{bucket}/{key}", "why": "mark" if key.endswith("/") else "other"}
        for key in sorted(OTHERS)
    ]
    assert run.returncode == 1


def test_a_key_that_is_refused_is_named_in_its_letter(gateway: GatewayProcess, bucket: str):
    (slide,) = gateway.post("/s3-events", bridge(bucket, "a/../b.svs")).json()["slides"]

    assert (slide["uri"], slide["error"]["code"]) == (f"s3://{bucket}/a/../b.svs", "uri-invalid")
    (info,) = gateway.store.list("dead-letter/")
    assert f"(s3://{bucket}/a/../b.svs)" in json.loads(gateway.store.get(info.key))["message"]

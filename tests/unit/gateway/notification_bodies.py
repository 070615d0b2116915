"""Bucket notifications as object stores write them, full of what must not go on."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

SECRETS = ("Erika Mustermann", "AKIAEXAMPLE", "203.0.113.7", "1948-02-29")
"""A patient, an account, an address and a birthday: planted where notifications have room for such things."""


def record(
    bucket: str, key: str, *, event: str = "ObjectCreated:Put", encoded: str | None = None
) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-01-01T00:00:00.000Z",
        "eventName": event,
        "userIdentity": {"principalId": SECRETS[1]},
        "requestParameters": {"sourceIPAddress": SECRETS[2]},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": SECRETS[0],
            "bucket": {"name": bucket, "ownerIdentity": {"principalId": SECRETS[1]}, "arn": "arn:aws:s3:::x"},
            "object": {
                "key": quote_plus(key) if encoded is None else encoded,
                "size": 6,
                "eTag": "0123456789abcdef",
                "sequencer": "0A1B2C",
                "userMetadata": {"x-amz-meta-patient": SECRETS[0], "x-amz-meta-born": SECRETS[3]},
            },
        },
    }


def amazon(*records: Any) -> bytes:
    return json.dumps({"Records": list(records)}).encode()


def minio(bucket: str, key: str, event: str = "s3:ObjectCreated:CompleteMultipartUpload") -> bytes:
    body = {"EventName": event, "Key": f"{bucket}/{key}", "Records": [record(bucket, key, event=event)]}
    return json.dumps(body).encode()


TEST_EVENT = json.dumps(
    {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2026-01-01T00:00:00.000Z",
        "Bucket": "lab",
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
    }
).encode()

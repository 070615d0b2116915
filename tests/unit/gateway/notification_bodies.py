"""Bucket notifications as object stores write them, with data that must not be passed on."""

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


def minio_summary(key: str) -> bytes:
    """Write the short form, in which the key is not encoded."""
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": f"lab/{key}"}).encode()


def bridge(key: str, kind: object = "Object Created") -> bytes:
    """Write an event of Amazon EventBridge."""
    return json.dumps(
        {
            "version": "0",
            "id": "17793124-05d4-b198-2fde-7ededc63b103",
            "detail-type": kind,
            "source": "aws.s3",
            "account": SECRETS[1],
            "time": "2026-01-01T00:00:00Z",
            "region": "eu-central-1",
            "resources": ["arn:aws:s3:::lab"],
            "detail": {
                "version": "0",
                "bucket": {"name": "lab"},
                "object": {"key": key, "size": 6, "etag": "0123456789abcdef", "sequencer": "617f08"},
                "request-id": "N4N7GDK58NMKJ12R",
                "requester": SECRETS[1],
                "source-ip-address": SECRETS[2],
                "reason": "PutObject",
            },
        }
    ).encode()


SUBSCRIBE_TOKEN = "2336412f37fb687f5d51e6e241d09c805a5a57b30d712f794cc5f6a988666d92768dd60a"


def sns(body: bytes) -> bytes:
    """Wrap a notification as Amazon SNS sends it."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-central-1:123456789012:scans",
            "Subject": "Amazon S3 Notification",
            "Message": body.decode(),
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "SignatureVersion": "1",
            "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe",
        }
    ).encode()


def confirmation() -> bytes:
    """Write the request to confirm a subscription to Amazon SNS."""
    return json.dumps(
        {
            "Type": "SubscriptionConfirmation",
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "Token": SUBSCRIBE_TOKEN,
            "TopicArn": "arn:aws:sns:eu-central-1:123456789012:scans",
            "Message": "You have chosen to subscribe to the topic.",
            "SubscribeURL": f"https://sns.eu-central-1.amazonaws.com/?Token={SUBSCRIBE_TOKEN}",
            "Timestamp": "2026-01-01T00:00:00.000Z",
        }
    ).encode()


def sqs(*bodies: bytes) -> bytes:
    """Write Amazon SQS messages as Lambda passes them on."""
    records = [
        {
            "messageId": f"19dd0b57-{number}",
            "receiptHandle": "MessageReceiptHandle",
            "body": body.decode(),
            "attributes": {"SenderId": SECRETS[1]},
            "eventSource": "aws:sqs",
        }
        for number, body in enumerate(bodies)
    ]
    return json.dumps({"Records": records}).encode()


def one_message(body: bytes) -> bytes:
    """Write an Amazon SQS message as its own API returns it."""
    return json.dumps({"MessageId": "19dd0b57", "ReceiptHandle": "AQEB", "Body": body.decode()}).encode()


def received(body: bytes) -> bytes:
    """Write the answer of Amazon SQS to a request for messages."""
    return json.dumps({"Messages": [json.loads(one_message(body))]}).encode()


def by_lambda(body: bytes) -> bytes:
    """Write an Amazon SNS message as Lambda passes it on."""
    record = {"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": json.loads(sns(body))}
    return json.dumps({"Records": [record]}).encode()


def by_pipes(*bodies: bytes) -> bytes:
    """Write Amazon SQS messages as EventBridge Pipes passes them on."""
    return json.dumps(json.loads(sqs(*bodies))["Records"]).encode()


def one_by_pipes(body: bytes) -> bytes:
    """Write a single one, as a pipe with a batch size of one may."""
    return json.dumps(json.loads(by_pipes(body))[0]).encode()

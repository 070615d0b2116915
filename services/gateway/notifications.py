"""Reads S3 bucket notifications as object stores publish them, and keeps only which objects are new.

Amazon S3: {"Records": [...]}, keys URL-encoded (docs.aws.amazon.com/AmazonS3, "Event message structure"), and
{"Event": "s3:TestEvent"} when a notification is configured. MinIO and others: the same, with {"EventName",
"Key"} on top. Amazon EventBridge: {"detail-type": "Object Created", "detail": …}, keys not encoded (there,
"EventBridge event message structure").

Each may be wrapped in envelopes, one in the other. SNS puts the text of a notification into "Message"
(docs.aws.amazon.com/sns, "HTTP/HTTPS notification JSON format"), SQS into the "Body" or "body" of a message.
AWS Lambda passes on several of either as "Records", Amazon EventBridge Pipes as a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote_plus

from histgen_lib.access.places import ObjectPlace, object_place
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import printable
from histgen_lib.slides.formats import is_slide_name

MOST_RECORDS = 1000
MOST_ENVELOPES = 4
"""One in the other; real senders use at most two."""


@dataclass(frozen=True)
class NewObject:
    """An object that was written. `raw`: its key as it stands, in case the sender did not encode it."""

    place: ObjectPlace
    raw: ObjectPlace | None = None

    @property
    def places(self) -> list[ObjectPlace]:
        """Return where the object may be, the likelier place first."""
        return [self.place, self.raw] if self.raw else [self.place]


@dataclass(frozen=True)
class Refused:
    """A new slide whose name is not a valid object key. `name`: for people."""

    name: str
    error: InvalidInputError


@dataclass(frozen=True)
class Notification:
    """What a notification says. `ignored`: how many deletions, and objects that are not slides."""

    new: tuple[NewObject, ...] = ()
    ignored: int = 0
    malformed: int = 0
    refused: tuple[Refused, ...] = ()


_Found = NewObject | Refused | InvalidInputError | None


def read(body: bytes) -> Notification:
    """Read a notification. Raises InvalidInputError, which repeats no value.

    "notification-unreadable", or "notification-unconfirmed" for a subscription that a person has to confirm.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise unreadable("It is not JSON.") from None
    messages = list(islice(_unwrapped(value), MOST_RECORDS + 1))
    found = [one for message in messages for one in _read_message(message, alone=len(messages) == 1)]
    if len(found) > MOST_RECORDS:
        raise _too_many()
    return _sorted_out(found)


def unreadable(why: str) -> InvalidInputError:
    """Say that a notification cannot be used."""
    return InvalidInputError(
        "notification-unreadable",
        f"A bucket notification cannot be used. {why}",
        hint="Have the object store publish its own notifications there, and nothing else.",
    )


def _unwrapped(value: Any, envelopes: int = MOST_ENVELOPES) -> Iterator[Any]:
    """Yield the messages inside the envelopes of a JSON value; the value itself if it has none.

    Yields an InvalidInputError in place of what cannot be unwrapped.
    """
    inside = _inside(value)
    if inside is None:
        yield value
    elif isinstance(inside, InvalidInputError):
        yield inside
    elif envelopes == 0:
        yield unreadable("It is wrapped in too many envelopes.")
    else:
        for one in inside:
            yield from _unwrapped(_parsed(one), envelopes - 1)


def _inside(value: Any) -> list[Any] | InvalidInputError | None:
    """Return the content of an envelope; None for what is not an envelope."""
    if isinstance(value, list) and value:  # a batch from EventBridge Pipes
        return value
    if not isinstance(value, dict):
        return None
    if value.get("Type") in ("SubscriptionConfirmation", "UnsubscribeConfirmation") and "TopicArn" in value:
        return _UNCONFIRMED
    if value.get("Type") == "Notification" and "Message" in value:
        return [value["Message"]]
    for body, name in (("Body", "MessageId"), ("body", "messageId")):
        if body in value and name in value:
            return [value[body]]
    messages, records = value.get("Messages"), value.get("Records")
    return messages if isinstance(messages, list) else _lambda_batch(records)


def _lambda_batch(records: Any) -> list[Any] | None:
    """Return the content of SQS and SNS messages that Lambda passes on; None for other records."""
    if not isinstance(records, list) or not records or not all(map(_is_envelope, records)):
        return None
    return [record.get("body", record.get("Sns")) for record in records]


def _is_envelope(record: Any) -> bool:
    return isinstance(record, dict) and "s3" not in record and ("body" in record or "Sns" in record)


def _parsed(inside: Any) -> Any:
    """Parse the text in an envelope; text that is not JSON stays text, and is no notification."""
    if not isinstance(inside, str):
        return inside
    try:
        return json.loads(inside)
    except (ValueError, RecursionError):
        return inside


def _read_message(message: Any, *, alone: bool) -> list[_Found]:
    """Read one message. A faulty one is fatal only if it is alone; else it counts as malformed."""
    try:
        if isinstance(message, InvalidInputError):
            raise message
        return _of_message(message)
    except InvalidInputError as error:
        if alone:
            raise
        return [error]


def _of_message(value: Any) -> list[_Found]:
    if not isinstance(value, dict):
        raise unreadable("It is not a JSON object.")
    if value.get("Event") == "s3:TestEvent":
        return []
    if "detail-type" in value:
        return [_of_bridge(value)]
    records = value.get("Records")
    if records is None and "EventName" in value and "Key" in value:
        return [_of_summary(value)]
    if not isinstance(records, list) or len(records) > MOST_RECORDS:
        raise _too_many()
    return [_of_record(record) for record in records]


def _too_many() -> InvalidInputError:
    return unreadable(f"It has no list of at most {MOST_RECORDS} records.")


def _sorted_out(found: list[_Found]) -> Notification:
    new = tuple(one for one in found if isinstance(one, NewObject))
    refused = tuple(one for one in found if isinstance(one, Refused))
    malformed = sum(isinstance(one, InvalidInputError) for one in found)
    return Notification(new, found.count(None), malformed, refused)


def _of_summary(value: dict[str, Any]) -> _Found:
    """Read {"EventName", "Key": "bucket/key"}, where the key is not encoded."""
    name, key = value["EventName"], value["Key"]
    if not isinstance(name, str) or not isinstance(key, str):
        return unreadable("Its event or key is not text.")
    if "/" not in key:
        return unreadable("Its key has no bucket.")
    bucket, _, inside = key.partition("/")
    return _new(bucket, inside, encoded=False) if _is_creation(name) else None


def _of_record(record: Any) -> _Found:
    try:
        name, s3 = record["eventName"], record["s3"]
        bucket, key = s3["bucket"]["name"], s3["object"]["key"]
    except (TypeError, KeyError):
        return unreadable("A record lacks its event, bucket or key.")
    if not all(isinstance(part, str) for part in (name, bucket, key)):
        return unreadable("A record's event, bucket or key is not text.")
    return _new(bucket, key, encoded=True) if _is_creation(name) else None


def _of_bridge(value: dict[str, Any]) -> _Found:
    if value["detail-type"] != "Object Created":
        return None
    try:
        detail = value["detail"]
        bucket, key = detail["bucket"]["name"], detail["object"]["key"]
    except (TypeError, KeyError):
        return unreadable("An event lacks its bucket or key.")
    if not isinstance(bucket, str) or not isinstance(key, str):
        return unreadable("An event's bucket or key is not text.")
    return _new(bucket, key, encoded=False)


def _is_creation(name: str) -> bool:
    return name.removeprefix("s3:").startswith("ObjectCreated")


def _new(bucket: str, key: str, *, encoded: bool) -> _Found:
    try:
        plain = unquote_plus(key, errors="strict") if encoded else key
    except UnicodeDecodeError:
        name = printable(f"s3://{bucket}/{key}")
        return Refused(name, unreadable("A record's key is not UTF-8.")) if is_slide_name(key) else None
    if not is_slide_name(plain):
        return None
    try:
        return NewObject(object_place(bucket, plain), _raw(bucket, key) if key != plain else None)
    except InvalidInputError as error:
        return Refused(printable(f"s3://{bucket}/{plain}"), error)


def _raw(bucket: str, key: str) -> ObjectPlace | None:
    try:
        return object_place(bucket, key)
    except InvalidInputError:  # an encoded key may be longer than a key can be
        return None


_UNCONFIRMED = InvalidInputError(
    "notification-unconfirmed",
    "Amazon SNS asks to confirm a subscription. The gateway opens no address that a message names.",
    hint="Confirm it yourself: open the SubscribeURL of that message, or use aws sns confirm-subscription.",
)

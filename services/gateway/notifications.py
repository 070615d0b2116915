"""S3 bucket notifications as object stores publish them; of all that they say, which objects are new is kept.

Amazon's own: {"Records": [...]}, keys URL-encoded (docs.aws.amazon.com/AmazonS3, "Event message structure"),
and {"Event": "s3:TestEvent"} when a notification is set up. MinIO and others: the same, with {"EventName",
"Key"} on top. Amazon EventBridge: {"detail-type": "Object Created", "detail": …}, keys as they are (there,
"EventBridge event message structure"). Each may come in envelopes (`envelopes`).
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
from services.gateway.envelopes import opened, unreadable

MOST_RECORDS = 1000


@dataclass(frozen=True)
class New:
    """An object that was written. `raw`: its key as it stood, should the sender not have encoded it."""

    place: ObjectPlace
    raw: ObjectPlace | None = None


@dataclass(frozen=True)
class Refused:
    """A new slide that cannot be taken: no object can be called so. `name`: for people."""

    name: str
    error: InvalidInputError


@dataclass(frozen=True)
class Notification:
    """What a notification tells of. `ignored`: deletions and objects that are no slides."""

    new: tuple[New, ...] = ()
    ignored: int = 0
    malformed: int = 0
    refused: tuple[Refused, ...] = ()


_Found = New | Refused | InvalidInputError | None


def read(body: bytes) -> Notification:
    """Read a notification. Raises InvalidInputError, which repeats no value.

    "notification-unreadable"; "notification-unconfirmed" for a subscription that a person has to confirm.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise unreadable("It is not JSON.") from None
    messages = list(islice(opened(value), MOST_RECORDS + 1))
    found = [one for message in messages for one in _told(message, alone=len(messages) == 1)]
    if len(found) > MOST_RECORDS:
        raise _too_many()
    return _sorted_out(found)


def _told(message: Any, *, alone: bool) -> list[_Found]:
    """Read one message; what is wrong with it ends all only if there is no other beside it."""
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
    new = tuple(one for one in found if isinstance(one, New))
    refused = tuple(one for one in found if isinstance(one, Refused))
    malformed = sum(isinstance(one, InvalidInputError) for one in found)
    return Notification(new, found.count(None), malformed, refused)


def _of_summary(value: dict[str, Any]) -> _Found:
    """Read {"EventName", "Key": "bucket/key"}, where the key is not encoded."""
    name, key = value["EventName"], value["Key"]
    if not isinstance(name, str) or not isinstance(key, str):
        return unreadable("Its event or key is no text.")
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
        return unreadable("A record's event, bucket or key is no text.")
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
        return unreadable("An event's bucket or key is no text.")
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
        return New(object_place(bucket, plain), _raw(bucket, key) if key != plain else None)
    except InvalidInputError as error:
        return Refused(printable(f"s3://{bucket}/{plain}"), error)


def _raw(bucket: str, key: str) -> ObjectPlace | None:
    try:
        return object_place(bucket, key)
    except InvalidInputError:  # encoded, it may be longer than a key can be
        return None


def places(new: New) -> Iterator[ObjectPlace]:
    """Yield where the object may lie, the likelier place first."""
    yield new.place
    if new.raw:
        yield new.raw

"""S3 bucket notifications as object stores publish them; of all that they say, which objects are new is kept.

Amazon's own: {"Records": [...]}, keys URL-encoded (docs.aws.amazon.com/AmazonS3, "Event message structure"),
and {"Event": "s3:TestEvent"} when a notification is set up. MinIO and others: the same, with {"EventName",
"Key"} on top.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.parts import SLIDE_SUFFIXES
from histgen_lib.slides.places import ObjectPlace, object_place

MOST_RECORDS = 1000


@dataclass(frozen=True)
class New:
    """An object that was written. `raw`: its key as it stood, should the sender not have encoded it."""

    place: ObjectPlace
    raw: ObjectPlace | None = None


@dataclass(frozen=True)
class Notification:
    """What a notification tells of. `ignored`: deletions and objects that are no slides."""

    new: tuple[New, ...] = ()
    ignored: int = 0
    malformed: int = 0


def read(body: bytes) -> Notification:
    """Read a notification. Raises InvalidInputError("notification-unreadable"), which repeats no value."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise unreadable("It is not JSON.") from None
    if not isinstance(value, dict):
        raise unreadable("It is not a JSON object.")
    if value.get("Event") == "s3:TestEvent":
        return Notification()
    records = value.get("Records")
    if records is None and "EventName" in value and "Key" in value:
        return _sorted_out([_of_summary(value)])
    if not isinstance(records, list) or len(records) > MOST_RECORDS:
        raise unreadable(f"It has no list of at most {MOST_RECORDS} records.")
    return _sorted_out([_of_record(record) for record in records])


def unreadable(why: str) -> InvalidInputError:
    """Say that a notification cannot be used."""
    return InvalidInputError(
        "notification-unreadable",
        f"A bucket notification cannot be used. {why}",
        hint="Have the object store publish its own notifications there, and nothing else.",
    )


def _sorted_out(found: list[New | InvalidInputError | None]) -> Notification:
    new = tuple(one for one in found if isinstance(one, New))
    malformed = sum(isinstance(one, InvalidInputError) for one in found)
    return Notification(new, len(found) - len(new) - malformed, malformed)


def _of_summary(value: dict[str, Any]) -> New | InvalidInputError | None:
    """Read {"EventName", "Key": "bucket/key"}, where the key is not encoded."""
    name, key = value["EventName"], value["Key"]
    if not isinstance(name, str) or not isinstance(key, str):
        return unreadable("Its event or key is no text.")
    return (
        _new(name, *key.split("/", 1), encoded=False) if "/" in key else unreadable("Its key has no bucket.")
    )


def _of_record(record: Any) -> New | InvalidInputError | None:
    try:
        name, s3 = record["eventName"], record["s3"]
        bucket, key = s3["bucket"]["name"], s3["object"]["key"]
    except (TypeError, KeyError):
        return unreadable("A record lacks its event, bucket or key.")
    if not all(isinstance(part, str) for part in (name, bucket, key)):
        return unreadable("A record's event, bucket or key is no text.")
    return _new(name, bucket, key, encoded=True)


def _new(name: str, bucket: str, key: str, *, encoded: bool) -> New | InvalidInputError | None:
    if not name.removeprefix("s3:").startswith("ObjectCreated"):
        return None
    try:
        plain = unquote_plus(key, errors="strict") if encoded else key
        if plain.endswith("/") or PurePosixPath(plain).suffix.lower() not in SLIDE_SUFFIXES:
            return None
        place = object_place(bucket, plain)
        return New(place, object_place(bucket, key) if key != plain else None)
    except UnicodeDecodeError:
        return unreadable("A record's key is not UTF-8.")
    except InvalidInputError as error:
        return error


def places(new: New) -> Iterator[ObjectPlace]:
    """Yield where the object may lie, the likelier place first."""
    yield new.place
    if new.raw:
        yield new.raw

"""What a bucket notification may be wrapped in on its way: Amazon's SNS and SQS, one in the other.

SNS puts the text of a notification into "Message" (docs.aws.amazon.com/sns, "HTTP/HTTPS notification JSON
format"), SQS into the "Body" or "body" of a message, AWS Lambda hands on several of either as "Records", and
Amazon EventBridge Pipes as a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from histgen_lib.errors import InvalidInputError

MOST_ENVELOPES = 4
"""One in the other; nobody has more than two."""


def opened(value: Any, envelopes: int = MOST_ENVELOPES) -> Iterator[Any]:
    """Yield what lies in the envelopes of a JSON value; the value itself if it has none.

    In the place of what cannot be opened an InvalidInputError is yielded: "notification-unreadable", or
    "notification-unconfirmed" where SNS wants to have a subscription confirmed.
    """
    inside = _inside(value)
    if inside is None:
        yield value
    elif isinstance(inside, InvalidInputError):
        yield inside
    elif envelopes == 0:
        yield unreadable("It is wrapped too often.")
    else:
        for one in inside:
            yield from opened(_parsed(one), envelopes - 1)


def unreadable(why: str) -> InvalidInputError:
    """Say that a notification cannot be used."""
    return InvalidInputError(
        "notification-unreadable",
        f"A bucket notification cannot be used. {why}",
        hint="Have the object store publish its own notifications there, and nothing else.",
    )


def _inside(value: Any) -> list[Any] | InvalidInputError | None:
    """Return what an envelope holds; None for what is no envelope."""
    if isinstance(value, list) and value:  # a batch, as EventBridge Pipes hands it on
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
    return messages if isinstance(messages, list) else _handed_on(records)


def _handed_on(records: Any) -> list[Any] | None:
    """Return what the messages of SQS and SNS hold that Lambda hands on; None if they are none."""
    if not isinstance(records, list) or not records or not all(map(_is_envelope, records)):
        return None
    return [record.get("body", record.get("Sns")) for record in records]


def _is_envelope(record: Any) -> bool:
    return isinstance(record, dict) and "s3" not in record and ("body" in record or "Sns" in record)


def _parsed(inside: Any) -> Any:
    """Read the text of an envelope; what is no JSON stays text, which is no notification."""
    if not isinstance(inside, str):
        return inside
    try:
        return json.loads(inside)
    except (ValueError, RecursionError):
        return inside


_UNCONFIRMED = InvalidInputError(
    "notification-unconfirmed",
    "Amazon SNS asks to have a subscription confirmed. The gateway opens no address that a message names.",
    hint="Confirm it yourself: open the SubscribeURL of that message, or aws sns confirm-subscription.",
)

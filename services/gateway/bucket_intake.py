"""Takes in the slides that bucket notifications name, from POST /s3-events or from a topic.

Whatever cannot be taken in becomes a dead letter, so that it holds up nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from histgen_lib.access.places import ObjectPlace
from histgen_lib.bus import Delivery, Subscription
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.files import sha256_hex
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.runtime.stopping import Stopped
from histgen_lib.telemetry import get_logger
from services.gateway import NAME, notifications
from services.gateway.contents import mark_of
from services.gateway.intake import Intake
from services.gateway.submission import Receipt, Submission

GROUP = f"histgen-{NAME}"
MOST_ATTEMPTS = 3
"""Attempts at a notification whose handling fails unexpectedly."""
_READS = 3

_log = get_logger()


@dataclass(frozen=True)
class Outcome:
    """What became of one object of a notification: taken in (`receipt`) or not (`error`)."""

    uri: str
    receipt: Receipt | None = None
    error: HistgenError | None = None


def take_in(intake: Intake, body: bytes, position: str) -> list[Outcome]:
    """Take in the slides of a notification, one after the other. `position`: where it came from.

    Raises TransientError: then call it again; slides taken in before are recognised. Anything wrong with the
    notification, or with one of its objects, becomes a dead letter instead of an exception.
    """
    try:
        notification = notifications.read(body)
    except InvalidInputError as error:
        intake.give_up(letter(position, body, error))
        return [Outcome("", error=error)]
    if notification.malformed:
        bad = notifications.unreadable(f"{notification.malformed} of its records are malformed.")
        intake.give_up(letter(position, body, bad))
    refused = [_give_up(intake, one.name, one.error, body, position) for one in notification.refused]
    return [*refused, *(_take_object(intake, new, body, position) for new in notification.new)]


def letter(position: str, body: bytes, reason: HistgenError, part: str = "") -> DeadLetter:
    """Make the dead letter of a notification, or of the `part` that names one object. It keeps no content."""
    digest = sha256_hex(body)
    letter_id = sha256_hex(f"{position}|{digest}{part and '|'}{part}".encode())[:32]
    record: dict[str, str | int] = {"position": position, "sha256": digest, "size_bytes": len(body)}
    return DeadLetter(letter_id, reason.code, reason.message, reason.hint, 0, NAME, record=record)


def _take_object(intake: Intake, new: notifications.NewObject, body: bytes, position: str) -> Outcome:
    uri = new.place.uri
    try:
        submission = _submission(intake, new)
        uri = submission.place.uri
        return Outcome(uri, receipt=_submit(intake, submission))
    except InvalidInputError as error:
        return _give_up(intake, uri, error, body, position)


def _give_up(intake: Intake, name: str, error: HistgenError, body: bytes, position: str) -> Outcome:
    """Give up one object with a letter that names it."""
    reason = type(error)(error.code, f"{error.message} ({name})", hint=error.hint)
    intake.give_up(letter(position, body, reason, part=name))
    return Outcome(name, error=error)


def _submit(intake: Intake, submission: Submission) -> Receipt:
    """Submit an object; read it again if it was overwritten meanwhile."""
    for _ in range(_READS - 1):
        try:
            return intake.submit(submission)
        except InvalidInputError as error:
            if error.code != "slide-changed":
                raise
    return intake.submit(submission)


def _submission(intake: Intake, new: notifications.NewObject) -> Submission:
    allowed = _allowed(intake, new)
    for place in allowed:
        if found := intake.contents.find(place):
            return Submission(place, "s3", mark=mark_of(place.uri, found))
    return Submission(allowed[0], "s3")


def _allowed(intake: Intake, new: notifications.NewObject) -> list[ObjectPlace]:
    """List the places within the roots where the object may be. If there is none, raise for the likelier."""
    allowed, refusals = list[ObjectPlace](), list[InvalidInputError]()
    for place in new.places:
        try:
            intake.contents.require(place)
            allowed.append(place)
        except InvalidInputError as error:
            refusals.append(error)
    if not allowed:
        raise refusals[0]
    return allowed


class NotificationTopic(Loop):
    """Reads raw notifications from a topic; each is finished, or given up, before the next is taken.

    `subscribe` joins the consumer group.
    """

    name = "notifications"

    def __init__(self, context: LoopContext, subscribe: Callable[[], Subscription], intake: Intake) -> None:
        super().__init__(context)
        self._subscribe, self._intake = subscribe, intake

    def turn(self) -> None:
        """Take the next notification, if there is one, and finish it."""
        self._pulse.drop()
        subscription = self._pulse.subscription = self._pulse.subscription or self._subscribe()
        delivery = self._pulse.next(subscription)
        if delivery:
            self._finish(subscription, delivery)
        else:
            self._pulse.beat()

    def close(self) -> None:
        """Leave the group."""
        if self._pulse.subscription:
            with suppress(TransientError):  # then the session expires by itself
                self._pulse.subscription.close()

    def _finish(self, subscription: Subscription, delivery: Delivery) -> None:
        self._pulse.take()
        try:
            self._take(delivery)
            self.insist(partial(subscription.done, delivery), background=False)
        except Stopped:
            with suppress(TransientError):
                subscription.release(delivery)
            raise

    def _take(self, delivery: Delivery) -> None:
        """Work on a notification until it is done; give it up if it fails unexpectedly several times."""
        damaged = delivery.unreadable
        if damaged and damaged.code == "record-damaged":
            self._give_up(delivery, damaged)
            return
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                self.insist(partial(take_in, self._intake, delivery.raw, delivery.position))
                return
            except (Stopped, FatalError):
                raise
            except Exception as error:
                _log.error("A notification could not be handled.", exc_info=error, attempt=attempt)
        self._give_up(delivery, _FAILED)

    def _give_up(self, delivery: Delivery, reason: InvalidInputError) -> None:
        self.insist(partial(self._intake.give_up, letter(delivery.position, delivery.raw, reason)))


_FAILED = InvalidInputError(
    "notification-failed",
    "A bucket notification could not be handled: the gateway failed unexpectedly.",
    hint="Please report this with the gateway's log. Take in its slides with `histgen backfill`.",
)

"""From a bucket notification to slides taken in, whichever way it came; what is not becomes a dead letter."""

from __future__ import annotations

from dataclasses import dataclass

from histgen_lib.access.places import ObjectPlace
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.files import sha256_hex
from services.gateway import notifications
from services.gateway.board import NAME
from services.gateway.contents import mark_of
from services.gateway.envelopes import unreadable
from services.gateway.intake import Intake
from services.gateway.submission import Receipt, Submission

_READS = 3


@dataclass(frozen=True)
class Noticed:
    """One object of a notification: taken (`receipt`), or not (`error`)."""

    uri: str
    receipt: Receipt | None = None
    error: HistgenError | None = None


def take(intake: Intake, body: bytes, position: str) -> list[Noticed]:
    """Take in the slides of a notification, one after the other. `position`: where it came from.

    Raises TransientError: then take it again, what was done is known. Nothing else gets out: whatever is
    wrong with the notification, or with one of its objects, becomes a dead letter.
    """
    try:
        found = notifications.read(body)
    except InvalidInputError as error:
        intake.give_up(letter(position, body, error))
        return [Noticed("", error=error)]
    if found.malformed:
        bad = unreadable(f"{found.malformed} of its records are malformed.")
        intake.give_up(letter(position, body, bad))
    refused = [_given_up(intake, one.name, one.error, body, position) for one in found.refused]
    return [*refused, *(_noticed(intake, new, body, position) for new in found.new)]


def letter(position: str, body: bytes, reason: HistgenError, part: str = "") -> DeadLetter:
    """Give up a notification, or the `part` of it that tells of one object. Nothing of its bytes is kept."""
    digest = sha256_hex(body)
    made = sha256_hex(f"{position}|{digest}{part and '|'}{part}".encode())[:32]
    record: dict[str, str | int] = {"position": position, "sha256": digest, "size_bytes": len(body)}
    return DeadLetter(made, reason.code, reason.message, reason.hint, 0, NAME, record=record)


def _noticed(intake: Intake, new: notifications.New, body: bytes, position: str) -> Noticed:
    uri = new.place.uri
    try:
        submission = _submission(intake, new)
        uri = submission.place.uri
        return Noticed(uri, receipt=_submitted(intake, submission))
    except InvalidInputError as error:
        return _given_up(intake, uri, error, body, position)


def _given_up(intake: Intake, name: str, error: HistgenError, body: bytes, position: str) -> Noticed:
    """Give up one object in a letter that names it."""
    told = type(error)(error.code, f"{error.message} ({name})", hint=error.hint)
    intake.give_up(letter(position, body, told, part=name))
    return Noticed(name, error=error)


def _submitted(intake: Intake, submission: Submission) -> Receipt:
    """Submit an object; one that was written anew while it was read is read again."""
    for _ in range(_READS - 1):
        try:
            return intake.submit(submission)
        except InvalidInputError as error:
            if error.code != "slide-changed":
                raise
    return intake.submit(submission)


def _submission(intake: Intake, new: notifications.New) -> Submission:
    allowed = _allowed(intake, new)
    for place in allowed:
        if found := intake.contents.find(place):
            return Submission(place, "s3", mark=mark_of(place.uri, found))
    return Submission(allowed[0], "s3")


def _allowed(intake: Intake, new: notifications.New) -> list[ObjectPlace]:
    """List where the object may lie, within the roots. Raises for the likelier place if there is none."""
    allowed, refusals = list[ObjectPlace](), list[InvalidInputError]()
    for place in notifications.places(new):
        try:
            intake.contents.require(place)
            allowed.append(place)
        except InvalidInputError as error:
            refusals.append(error)
    if not allowed:
        raise refusals[0]
    return allowed

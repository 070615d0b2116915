"""From a bucket notification to slides taken in, whichever way it came; what is not becomes a dead letter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.files import sha256_hex
from histgen_lib.slides.places import ObjectPlace
from histgen_lib.worker import DeadLetter
from services.gateway import notifications
from services.gateway.board import NAME
from services.gateway.contents import mark_of
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
        bad = notifications.unreadable(f"{found.malformed} of its records are malformed.")
        intake.give_up(letter(position, body, bad))
    return [_noticed(intake, new, body, position) for new in found.new]


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
        told = type(error)(error.code, f"{error.message} ({uri})", hint=error.hint)
        intake.give_up(letter(position, body, told, part=uri))
        return Noticed(uri, error=error)


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
    for place in _allowed(intake, new):
        if found := intake.contents.find(place):
            return Submission(place, "s3", mark=mark_of(place.uri, found))
    return Submission(new.place, "s3")


def _allowed(intake: Intake, new: notifications.New) -> Iterator[ObjectPlace]:
    for place in notifications.places(new):
        intake.contents.require(place)
        yield place

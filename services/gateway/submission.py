"""What is submitted to the gateway, how POST /slides states it, and what the gateway answers.

Refusals name fields, and never repeat the values in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from histgen_lib.access.places import Place, parse_uri
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.web.bodies import Body, Text, invalid_request, json_object
from histgen_lib.slides.metadata import LEAST_MPP, MOST_MPP, is_plausible

Via = Literal["watch", "http", "s3", "backfill"]
"""How a slide comes in: the watched folder, POST /slides, an S3 notification, a backfill."""

Status = Literal["accepted", "duplicate", "rescan", "dead-letter"]

TAKEN = "slide-id-taken"
"""The code of a slide that never got its id: it cannot be replayed, only submitted under another id."""

MOST_CASE_SLIDES = 500

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,126}[A-Za-z0-9_-]|[A-Za-z0-9_-]")
_FIELDS = 'The fields are uri (required), slide_id, mpp (µm per pixel) and case {"id", "slides"}.'


@dataclass(frozen=True)
class Case:
    """Slides that get one report together."""

    id: str
    slides: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The same text for the same case, in whatever order its slides are named."""
        return f"{self.id}:{','.join(sorted(self.slides))}"


@dataclass(frozen=True)
class Submission:
    """A slide that someone submits. `slide_id`, `mpp`, `case`: None keeps what was stated before, if any.

    `mark`: the state of its files (`contents.mark_of`); a state that was dealt with is not read again. `by`:
    who submits it, for the audit log, if more is known than `via`.
    """

    place: Place
    via: Via
    slide_id: str | None = None
    mpp: float | None = None
    case: Case | None = None
    mark: str = ""
    by: str = ""


@dataclass(frozen=True)
class Receipt:
    """What became of a submission.

    "accepted": announced now, by `event_id`. "rescan": the same, for new bytes at a known URI. "duplicate":
    announced before, by `event_id`. "dead-letter": given up, now or before; `letter` says why.
    """

    slide_id: str
    event_id: str
    status: Status
    letter: DeadLetter | None = None

    @property
    def hint(self) -> str:
        """Say what to do about a slide that was given up."""
        if self.letter is None or self.letter.code == TAKEN:
            return self.letter.hint if self.letter else ""
        return f"{self.letter.hint} Then run `histgen replay` to try it again.".strip()


def check(submission: Submission) -> None:
    """Refuse values that cannot be meant.

    Raises InvalidInputError: "slide-id-invalid", "slide-mpp-implausible", "case-invalid".
    """
    if submission.slide_id is not None and not _ID.fullmatch(submission.slide_id):
        raise InvalidInputError(
            "slide-id-invalid",
            "The slide_id is not valid.",
            hint="Use up to 128 letters, digits, '.', '_' and '-', with no dot at either end.",
        )
    if submission.mpp is not None and not is_plausible(submission.mpp):
        raise InvalidInputError(
            "slide-mpp-implausible",
            f"The stated mpp is outside {LEAST_MPP}…{MOST_MPP} µm per pixel.",
            hint="State the size of a level-0 pixel in µm: about 0.25 for a 40× scan, 0.5 for a 20× scan.",
        )
    if submission.case is not None:
        _check_case(submission.case)


def check_member(case: Case, slide_id: str) -> None:
    """Refuse a case that does not name the slide it comes with: InvalidInputError("case-invalid")."""
    if slide_id not in case.slides:
        raise _bad_case(f"does not name the slide {slide_id} itself")


def _check_case(case: Case) -> None:
    if not all(_ID.fullmatch(name) for name in (case.id, *case.slides)):
        raise _bad_case("has an id that is not valid")
    if not 1 <= len(set(case.slides)) == len(case.slides) <= MOST_CASE_SLIDES:
        raise _bad_case(f"names no slide, a slide twice, or more than {MOST_CASE_SLIDES} slides")


def _bad_case(why: str) -> InvalidInputError:
    return InvalidInputError(
        "case-invalid",
        f"The case {why}.",
        hint='Name every slide of the case once: {"id": "C1", "slides": ["a", "b"]}.',
    )


class _CaseBody(Body):
    id: Text
    slides: Annotated[list[Text], Field(min_length=1, max_length=MOST_CASE_SLIDES)]


class _SlideBody(Body):
    uri: Text
    slide_id: Text | None = None
    mpp: Annotated[float, Field(allow_inf_nan=False)] | None = None
    case: _CaseBody | None = None


def read_submission(body: bytes) -> Submission:
    """Read the body of POST /slides.

    Raises InvalidInputError: "request-unreadable" (not a JSON object), "request-invalid", "uri-invalid".
    """
    try:
        slide = _SlideBody.model_validate(json_object(body))
    except ValidationError as error:
        raise invalid_request(error, _FIELDS) from None
    case = Case(slide.case.id, tuple(slide.case.slides)) if slide.case else None
    return Submission(parse_uri(slide.uri), "http", slide.slide_id, slide.mpp, case)

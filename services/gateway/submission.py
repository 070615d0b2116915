"""What is told to the gateway, and what it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from histgen_lib.access.places import Place
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.mpp import LEAST_MPP, MOST_MPP, is_plausible

Via = Literal["watch", "http", "s3", "backfill"]
"""Who tells: the watched folder, POST /slides, an S3 notification, a backfill."""

Status = Literal["accepted", "duplicate", "rescan", "dead-letter"]

TAKEN = "slide-id-taken"
"""A slide that never got its id: there is nothing to replay, it has to be sent under another one."""

MOST_CASE_SLIDES = 500
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,126}[A-Za-z0-9_-]|[A-Za-z0-9_-]")


@dataclass(frozen=True)
class Case:
    """Slides that get one report together."""

    id: str
    slides: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The same for the same case, in whatever order its slides are named."""
        return f"{self.id}:{','.join(sorted(self.slides))}"


@dataclass(frozen=True)
class Submission:
    """A slide that someone tells of. What is not stated (None) is as it was told before, if it was.

    `mark`: the state of its files (`contents.mark_of`); a state dealt with before is not read again. `by`:
    who stands behind it, for the audit log, where more is known than by which way it came.
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
    """What became of it: announced now ("accepted", "rescan": other bytes at a known URI), or not.

    "duplicate": announced before, by `event_id`. "dead-letter": given up, now or before; `letter` says why.
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
        return f"{self.letter.hint} Then `histgen replay` has it tried again.".strip()


def check(submission: Submission) -> None:
    """Refuse what cannot be meant.

    Raises InvalidInputError: "slide-id-invalid", "slide-mpp-implausible", "case-invalid".
    """
    if submission.slide_id is not None and not _ID.fullmatch(submission.slide_id):
        raise InvalidInputError(
            "slide-id-invalid",
            "The slide_id cannot be used.",
            hint="Use up to 128 letters, digits, '.', '_' and '-', with no dot at either end.",
        )
    if submission.mpp is not None and not is_plausible(submission.mpp):
        raise InvalidInputError(
            "slide-mpp-implausible",
            f"The stated mpp lies outside {LEAST_MPP}…{MOST_MPP} µm per pixel.",
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
        raise _bad_case("has an id that cannot be used")
    if not 1 <= len(set(case.slides)) == len(case.slides) <= MOST_CASE_SLIDES:
        raise _bad_case(f"names no slide, one of them twice, or more than {MOST_CASE_SLIDES}")


def _bad_case(why: str) -> InvalidInputError:
    return InvalidInputError(
        "case-invalid",
        f"The case {why}.",
        hint='Name every slide of the case once: {"id": "C1", "slides": ["a", "b"]}.',
    )

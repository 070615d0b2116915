"""What may be asked of the case index, and which questions are refused before anything is looked up.

Refusals name what is wrong and never repeat a text that was asked: it may be anybody's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from histgen_lib.errors import InvalidInputError
from histgen_lib.retrieval._port import Filters, IndexState
from histgen_lib.retrieval.encoding import Box

Kind = Literal["slide", "region", "text"]
Find = Literal["cases", "reports"]

MOST_TEXT = 8000
"""Characters of a text that is asked about: several times the longest report."""
MOST_COUNT = 100
"""Hits of one search."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Question:
    """One search: cases that look like a slide, or like a region of it, or that a text describes.

    Either `slide`, a slide's id, or `text`. `region`: x, y, width, height in level-0 px of the slide. `find`:
    "cases" compares with pictures, "reports" with what was written. `filters`: which cases count; `count`:
    how many are wanted.
    """

    slide: str = ""
    text: str = ""
    region: Box | None = None
    find: Find = "cases"
    filters: Filters = field(default_factory=Filters)
    count: int = 10

    @property
    def kind(self) -> Kind:
        """What is asked about."""
        if not self.slide:
            return "text"
        return "region" if self.region else "slide"

    @property
    def task(self) -> str:
        """Its name in metrics: "slide-cases", "text-reports", …."""
        return f"{self.kind}-{self.find}"


def read_question(asked: Mapping[str, Any]) -> Question:
    """Read a question whose values have the types that POST /search takes; what is absent or None is open.

    Raises InvalidInputError("query-region-malformed").
    """
    region = None if asked.get("region") is None else read_region(asked["region"])
    filters = Filters(
        organ=asked.get("organ") or "",
        stain=asked.get("stain") or "",
        site=asked.get("site") or "",
        since=asked.get("since") or "",
        until=asked.get("until") or "",
        signed=asked.get("signed"),
        synthetic=asked.get("synthetic"),
    )
    slide, text = asked.get("slide") or "", asked.get("text") or ""
    return Question(slide, text, region, asked.get("find") or "cases", filters, asked.get("count", 10))


def read_region(values: object) -> Box:
    """Read a box: four whole numbers, in a list or as "x,y,width,height".

    Raises InvalidInputError("query-region-malformed").
    """
    parts = values.split(",") if isinstance(values, str) else values
    if not isinstance(parts, list | tuple) or any(isinstance(part, bool | float) for part in parts):
        raise _malformed("is not four whole numbers")
    try:
        x, y, width, height = map(int, parts)
    except (ValueError, TypeError):
        raise _malformed("is not four whole numbers") from None
    if width <= 0 or height <= 0 or max(map(abs, (x, y, width, height))) >= 1 << 31:
        raise _malformed("has no area, or one that no slide has")
    return x, y, width, height


def check(question: Question) -> None:
    """Refuse a question that cannot be meant.

    Raises InvalidInputError: "query-empty", "query-both", "query-text-too-long", "query-region-malformed",
    "query-date", "query-count", "request-invalid".
    """
    _check_unicode(question)
    if question.slide and question.text.strip():
        raise InvalidInputError(
            "query-both",
            "The search names both a slide and a text.",
            hint="Ask about one of them; run two searches for both.",
        )
    if not question.slide:
        _check_text(question)
    if not 1 <= question.count <= MOST_COUNT:
        raise InvalidInputError(
            "query-count",
            f"A search returns 1 to {MOST_COUNT} cases.",
            hint="Ask for fewer; filters (organ, site, dates) narrow a search.",
        )
    _check_days(question.filters)


def _check_unicode(question: Question) -> None:
    filters = question.filters
    try:
        "".join((question.slide, question.text, filters.organ, filters.stain, filters.site)).encode()
    except UnicodeEncodeError:  # a command line in another encoding
        raise InvalidInputError(
            "request-invalid",
            "A text or a name in the search is not Unicode.",
            hint="Write it in UTF-8: check the terminal's locale.",
        ) from None


def _check_text(question: Question) -> None:
    if not any(map(str.isalnum, question.text)):
        raise nothing_asked()
    if len(question.text) > MOST_TEXT:
        raise InvalidInputError(
            "query-text-too-long",
            f"The text has {len(question.text):,} characters; at most {MOST_TEXT:,} are searched for.",
            hint="Search for the diagnosis and the findings that matter.",
        )
    if question.region:
        raise _malformed("belongs to no slide: a text has no regions")


def _check_days(filters: Filters) -> None:
    days = [day for day in (filters.since, filters.until) if day]
    if not all(map(_is_day, days)):
        raise _bad_date("A date of the search is not a day of the calendar.")
    if days != sorted(days):
        raise _bad_date("The search ends before it begins: its last day comes before its first.")


def check_organ(organ: str, state: IndexState) -> None:
    """Refuse an organ that no case of a filled index has. Raises InvalidInputError("organ-unknown")."""
    if not organ or not state.cases or organ.casefold() in map(str.casefold, state.organs):
        return
    raise InvalidInputError(
        "organ-unknown",
        "The index has no case of that organ.",
        hint=f"It has: {', '.join(state.organs) or 'none whose report states the organ'}.",
    )


def nothing_asked() -> InvalidInputError:
    """Make the error for a question about nothing."""
    return InvalidInputError(
        "query-empty",
        "The request names neither a slide nor a text with words in it.",
        hint="Give a slide's id, or words to search for.",
    )


def unknown_slide() -> InvalidInputError:
    """Make the error for a slide that neither the index nor the store can be asked about."""
    return InvalidInputError(
        "query-slide-unknown",
        "There is no such slide in the index, and no bag of it in the store.",
        hint="Check the id: `histgen status` lists the slides. One that was just submitted has no bag yet.",
    )


def empty_region() -> InvalidInputError:
    """Make the error for a box without any region that is known."""
    return InvalidInputError(
        "query-region-empty",
        "No region that is known of this slide lies in the box.",
        hint="Choose one that holds tissue.",
    )


def _malformed(why: str) -> InvalidInputError:
    return InvalidInputError(
        "query-region-malformed",
        f"The region {why}.",
        hint="Give x,y,width,height in whole level-0 px of the slide, for example 2048,1024,512,512.",
    )


def _is_day(text: str) -> bool:
    try:
        return bool(_DAY.fullmatch(text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _bad_date(what: str) -> InvalidInputError:
    return InvalidInputError(
        "query-date", what, hint="Write days as YYYY-MM-DD, for example 2024-01-31; the first comes first."
    )

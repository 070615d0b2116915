"""The body of POST /search as a question."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from histgen_lib.retrieval import questions
from histgen_lib.retrieval.questions import Question
from histgen_lib.runtime.web.bodies import Body, invalid_request, json_object

_FIELDS = (
    'The fields are slide or text, region [x, y, width, height], find ("cases" or "reports"), organ, stain, '
    "site, since and until (YYYY-MM-DD), signed and synthetic (true or false), and count."
)


class _SearchBody(Body):
    slide: str | None = None
    text: str | None = None
    region: None = None
    find: Literal["cases", "reports"] = "cases"
    organ: str | None = None
    stain: str | None = None
    site: str | None = None
    since: str | None = None
    until: str | None = None
    signed: bool | None = None
    synthetic: bool | None = None
    count: int = 10


def read_question(body: bytes) -> Question:
    """Read the body of POST /search.

    Raises InvalidInputError: "request-unreadable", "request-invalid", "query-region-malformed".
    """
    asked = json_object(body)
    try:
        _SearchBody.model_validate({**asked, "region": None})  # of which every form is refused with one code
    except ValidationError as error:
        raise invalid_request(error, _FIELDS) from None
    return questions.read_question(asked)


def read_slide(query: str | None) -> str:
    """Read the slide of GET /cases?slide=ID. Raises InvalidInputError("query-empty")."""
    if not query:
        raise questions.nothing_asked()
    return query

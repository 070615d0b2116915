"""draft.json: the record as bytes, back again, and the JSON Schema that documents it.

`python -m histgen_lib.reports.renderers.draft_json > docs/draft-schema.json` rebuilds the schema file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import indented_json
from histgen_lib.reports.record import DraftReport

if TYPE_CHECKING:
    from histgen_lib.reports.pictures import Pictures

_OF_A_CASE: dict[str, Any] = {
    "case_id": True,
    "slides": True,
    "sentences": {"__all__": {"evidence": {"__all__": {"slide_id": True}}}},
}
"""Left out of the report of one slide, for readers that do not know cases."""

_OTHER_SCALE: dict[str, Any] = {"slide": {"file_mpp": True}}
"""Left out where the file's own scale is used, for readers that do not know the field."""


def render(draft: DraftReport, pictures: Sequence[Pictures]) -> bytes:
    """Render draft.json, which holds no pictures."""
    return to_json(draft)


def to_json(draft: DraftReport) -> bytes:
    """Return UTF-8 JSON in the schema's order, indented by two; equal records give equal bytes."""
    return indented_json(draft.model_dump(mode="json", exclude=_empty_fields(draft)))


def _empty_fields(draft: DraftReport) -> dict[str, Any]:
    """Return the fields to leave out because they would say nothing."""
    calibrated = {"calibrated": True} if draft.calibrated else {}
    alone = {"provenance": _OTHER_SCALE} if draft.provenance.slide.file_mpp is None else {}
    if draft.case_id is None:
        return _OF_A_CASE | calibrated | alone
    parts = enumerate(draft.slides)
    slides = {i: _OTHER_SCALE for i, part in parts if part.slide.file_mpp is None}
    return calibrated | alone | {"slides": slides}


def from_json(data: bytes) -> DraftReport:
    """Read what `to_json` wrote. InvalidInputError("draft-unreadable") for anything else."""
    try:
        return DraftReport.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInputError(
            "draft-unreadable",
            "This is not a draft.json of schema version 1.",
            hint="Write the draft again with `histgen report`.",
        ) from error


def readable_draft(data: bytes) -> DraftReport | None:
    """Read what `to_json` wrote; None for anything else."""
    try:
        return from_json(data)
    except InvalidInputError:
        return None


def json_schema() -> bytes:
    """Return the JSON Schema (2020-12) of draft.json."""
    schema = DraftReport.model_json_schema(mode="serialization")
    return indented_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


if __name__ == "__main__":
    sys.stdout.buffer.write(json_schema())

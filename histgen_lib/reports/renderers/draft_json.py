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
from histgen_lib.reports.record import DraftReport, Sentence, SimilarCases

if TYPE_CHECKING:
    from histgen_lib.reports.pictures import Pictures

_OTHER_SCALE: dict[str, Any] = {"slide": {"file_mpp": True}}
"""Left out where the file's own scale is used, for readers that do not know the field."""


def render(draft: DraftReport, pictures: Sequence[Pictures]) -> bytes:
    """Render draft.json, which holds no pictures."""
    return to_json(draft)


def to_json(draft: DraftReport) -> bytes:
    """Return UTF-8 JSON in the schema's order, indented by two; equal records give equal bytes."""
    return indented_json(draft.model_dump(mode="json", exclude=_empty_fields(draft)))


def _empty_fields(draft: DraftReport) -> dict[str, Any]:
    """Return the fields to leave out because they would say nothing, for readers that do not know them."""
    alone = draft.case_id is None
    empty: dict[str, Any] = {
        "case_id": alone,
        "slides": alone
        or {i: _OTHER_SCALE for i, part in enumerate(draft.slides) if part.slide.file_mpp is None},
        "calibrated": draft.calibrated,
        "similar": True if draft.similar is None else _empty_of_similar(draft.similar, alone=alone),
        "sentences": {i: _empty_of_sentence(one, alone=alone) for i, one in enumerate(draft.sentences)},
        "provenance": _OTHER_SCALE if draft.provenance.slide.file_mpp is None else {},
    }
    return {name: what for name, what in empty.items() if what}


def _empty_of_sentence(sentence: Sentence, *, alone: bool) -> dict[str, Any]:
    if sentence.support is None:
        support: dict[str, Any] = {"support": True}
    else:
        support = {"support": {"slide_id": True}} if alone else {}
    return support | ({"evidence": {"__all__": {"slide_id": True}}} if alone else {})


def _empty_of_similar(similar: SimilarCases, *, alone: bool) -> dict[str, Any]:
    pairs = {"pairs": {"__all__": {"here_slide_id": True}}} if alone else {}
    empty = [
        pairs | {name: True for name in ("case_id", "mpp") if getattr(case, name) is None}
        for case in similar.cases
    ]
    return {"cases": dict(enumerate(empty))}


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

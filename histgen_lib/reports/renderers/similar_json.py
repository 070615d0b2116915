"""similar.json: what the case index answered when the draft was made.

It is written before all other files of the report, and they are rendered from it: doing the job again gives
the same bytes, whatever the index holds by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from histgen_lib.files import indented_json
from histgen_lib.reports.record import DraftReport, SimilarCases

if TYPE_CHECKING:
    from histgen_lib.reports.pictures import Pictures


def render(draft: DraftReport, pictures: Sequence[Pictures]) -> bytes:
    """Render similar.json of a draft that has similar cases, or the reason why it has none."""
    assert draft.similar is not None
    return to_json(draft.similar)


def to_json(similar: SimilarCases) -> bytes:
    """Return UTF-8 JSON, indented by two; equal records give equal bytes."""
    return indented_json(similar.model_dump(mode="json"))


def readable_similar(data: bytes) -> SimilarCases | None:
    """Read what `to_json` wrote; None for anything else."""
    try:
        return SimilarCases.model_validate_json(data)
    except ValidationError:
        return None

"""Which fields of reports are scored apart when searches are compared."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.cli.offline.retrieval_scoring import Question, Slides, match, with_fields
from histgen_lib.training.retrieval.data import SlideExample


def slides(side: str, *items: str) -> Slides:
    """Return ten slides that state these items."""
    lines = "".join(f"\n  - {item}" for item in items)
    examples = [
        SlideExample(f"{side}-{row}", f"Colon, biopsy:\n  Adenoma{lines}", Path("none")) for row in range(10)
    ]
    return Slides(examples, None)


def test_only_fields_with_a_value_that_can_be_found_are_scored() -> None:
    """Grade is; necrosis is only in the queries, and no margin of the gallery is like theirs."""
    queries = slides("query", "Grade: 1", "Necrosis: present", "Margins: free")
    gallery = slides("gallery", "Grade: 1", "Margins: involved")
    asked = with_fields(match(queries, gallery, Question(), []))
    assert list(asked.by_field) == ["grade"]
    assert asked.by_field["grade"].relevant.all()

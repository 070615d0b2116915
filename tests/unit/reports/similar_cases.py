"""Similar cases and checked lines for drafts made by hand."""

from __future__ import annotations

from handmade_draft import SHA, make_draft

from histgen_lib.reports.record import (
    DraftReport,
    Region,
    SentenceSupport,
    SimilarCase,
    SimilarCases,
    SimilarPair,
    SupportRates,
)

REPORT = "Breast, excision:\n  Ductal <b>carcinoma</b> in situ\n  - Grade: 3"
HERE, THERE = Region(x=0, y=512, width=512, height=256), Region(x=100, y=200, width=400, height=400)
RATES = SupportRates(field="grade", right=120, right_flagged=3, wrong=80, wrong_flagged=62)


def similar_case(slide_id: str = "other", **changes) -> SimilarCase:
    values = {
        "slide_id": slide_id,
        "report_digest": SHA,
        "score": 0.87,
        "organ": "Breast",
        "diagnosis": "Ductal <b>carcinoma</b> in situ",
        "text": REPORT,
        "mpp": 0.5,
        "pairs": (SimilarPair(here=HERE, there=THERE, similarity=0.91),),
    }
    return SimilarCase(**(values | changes))


def answer(*cases: SimilarCase, **changes) -> SimilarCases:
    values = {"answer": "answered", "model": SHA, "index_version": 3, "cases": cases}
    return SimilarCases(**(values | changes))


def checked_draft(score: float = 0.2134, threshold: float = 0.31, **changes) -> DraftReport:
    """Make a draft whose last line, the grade, was checked."""
    *others, grade = make_draft().sentences
    support = SentenceSupport(
        score=score, threshold=threshold, supported=score >= threshold, region=HERE, rates=RATES
    )
    grade = grade.model_copy(update={"support": support})
    return make_draft(sentences=(*others, grade), **changes)

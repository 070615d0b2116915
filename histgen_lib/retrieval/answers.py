"""Answers as JSON values: what the search service sends, and what `histgen search --json` prints."""

from __future__ import annotations

from typing import Any

from histgen_lib.retrieval._port import CaseEntry, IndexState
from histgen_lib.retrieval.searching import Answer, Evidence, Found

_DIGITS = 4


def answer_json(answer: Answer, *, behind_s: float = 0.0) -> dict[str, Any]:
    """Return an answer. `behind_s`: seconds since the index that was searched was known to be current."""
    return {
        "task": answer.question.task,
        "source": answer.source,
        "hits": [_found_json(found) for found in answer.found],
        "index": state_json(answer.state, behind_s=behind_s),
    }


def state_json(state: IndexState, *, behind_s: float = 0.0) -> dict[str, Any]:
    """Return an index's state."""
    return {
        "version": state.version,
        "model": state.model,
        "cases": state.cases,
        "slides": state.slides,
        "regions": state.regions,
        "organs": list(state.organs),
        "size_bytes": state.size_bytes,
        "behind_s": round(behind_s, 1),
    }


def entry_json(entry: CaseEntry) -> dict[str, Any]:
    """Return an entry without its vectors; `case_id` is None for a slide with a report of its own."""
    return {
        "slide_id": entry.slide_id,
        "case_id": entry.owner.partition("/")[2] or None,
        "stain": entry.stain,
        "site": entry.site,
        "date": entry.date,
        "report": {
            "digest": entry.report_digest,
            "text": entry.text,
            "organ": entry.organ,
            "diagnosis": entry.diagnosis,
            "signed": entry.signed,
            "synthetic": entry.synthetic,
        },
    }


def _found_json(found: Found) -> dict[str, Any]:
    pairs = [_pair_json(pair) for pair in found.pairs]
    return {**entry_json(found.entry), "score": round(found.score, _DIGITS), "pairs": pairs}


def _pair_json(pair: Evidence) -> dict[str, Any]:
    return {
        "here": list(pair.here) if pair.here else None,
        "words": pair.words or None,
        "there": list(pair.there),
        "similarity": round(pair.similarity, _DIGITS),
    }

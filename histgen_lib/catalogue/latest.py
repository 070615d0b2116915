"""The latest report of a slide or a case: told when it is made, and found again by whoever shows it.

Earlier versions kept the reports of a case where those of a slide with the case's id lie, under one pointer.
They are found there still: draft.json says whose each of them is, and what is another's is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from histgen_lib.catalogue.keys import DRAFT_JSON, ReportOwner
from histgen_lib.catalogue.pointer import (
    BY_REPORT,
    PREVIOUS,
    TURN,
    TURNS,
    advance,
    history,
    inherit,
    recall_pointer,
)
from histgen_lib.files import unsealed_object
from histgen_lib.storage import ObjectStore

_DIGEST = re.compile(r"[0-9a-f]{64}")


def tell_latest(
    store: ObjectStore, owner: ReportOwner, report_digest: str, draft_key: str, turns: Mapping[str, int]
) -> None:
    """Have the owner's pointer name a report, unless it did before, or a later one is known.

    `turns`: of each slide that the report is of. Raises InvalidInputError("names-not-told-apart").
    """
    value = {
        "schema": 1,
        "slide_id": owner.id,
        "case_id": owner.id if owner.is_case else None,
        BY_REPORT: report_digest,
        "draft": draft_key,
        TURN: sum(turns.values()),
        **({TURNS: dict(turns)} if owner.is_case else {}),
    }
    if owner.is_case:
        _inherited(store, owner)
        advance(store, owner.latest, value, by=BY_REPORT)
    else:
        advance(store, owner.latest, value, by=BY_REPORT, ours=lambda entry: _is_kept(store, owner, entry))


def _inherited(store: ObjectStore, case: ReportOwner) -> list[dict[str, Any]]:
    """Begin a case's history with what the version before said of it; return that."""
    before = history(store, f"{case.shared_prefix}latest.json", by=BY_REPORT)
    own = [entry for entry in before if entry and is_of(store, case, entry)]
    inherit(store, case.latest, own)
    return own


def _is_kept(store: ObjectStore, slide: ReportOwner, entry: Mapping[str, Any]) -> bool:
    """Whether a slide's pointer goes on naming a report; a case's it names until that has its own pointer."""
    if is_of(store, slide, entry):
        return True
    case = ReportOwner(slide.id, is_case=True)
    if store.head(case.latest) is None and (own := _inherited(store, case)):
        advance(store, case.latest, own[-1], by=BY_REPORT)
    return False


def pointers_of(owner: ReportOwner) -> list[str]:
    """Return the keys of the pointers that may name the owner's reports, the one that holds now first."""
    return list(dict.fromkeys((owner.latest, f"{owner.shared_prefix}latest.json")))


def named_drafts(owner: ReportOwner, pointer: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the draft.json of every report may lie that a pointer names or named, the latest first.

    Never in the folder of anybody else, whatever the pointer says.
    """
    previous = pointer.get(PREVIOUS)
    for digest in (pointer.get(BY_REPORT), *(previous if isinstance(previous, list) else ())):
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield from dict.fromkeys(
                f"{prefix}{digest}/{DRAFT_JSON}" for prefix in (owner.prefix, owner.shared_prefix)
            )


def latest_of(store: ObjectStore, owner: ReportOwner, *, damaged: str = "") -> str | None:
    """Return the digest of the owner's latest report that is there and says so; None if there is none.

    `damaged`: one that is taken to be the owner's, though it may not say so any more.
    """
    for pointer in filter(None, (recall_pointer(store, key, by=BY_REPORT) for key in pointers_of(owner))):
        for key in named_drafts(owner, pointer):
            digest = key.split("/")[2]
            if digest == damaged or owner_told(store.find(key)) == owner:
                return digest
    return None


def tells_of(owner: ReportOwner, draft: Mapping[str, Any]) -> bool:
    """Whether a draft.json is the report of this slide or case, by what it says itself."""
    return draft.get("slide_id") == owner.id and draft.get("case_id") == (owner.id if owner.is_case else None)


def owner_told(draft_json: bytes | None) -> ReportOwner | None:
    """Say whose report a draft.json says it is; None if it does not."""
    draft = unsealed_object(draft_json)
    slide_id, case_id = draft.get("slide_id"), draft.get("case_id")
    return ReportOwner(slide_id, case_id is not None) if isinstance(slide_id, str) else None


def is_of(store: ObjectStore, owner: ReportOwner, entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a pointer is about a report of the owner's; old ones do not say it themselves.

    Of a report that is no longer there it is not known: then it was the slide's.
    """
    if "case_id" in entry:
        return tells_of(owner, entry)
    found = (store.find(key) for key in named_drafts(owner, {BY_REPORT: entry.get(BY_REPORT)}))
    drafts = [unsealed_object(data) for data in found if data]
    return any(tells_of(owner, draft) for draft in drafts) if drafts else not owner.is_case

"""A store with drafts, people who sign and withdraw them, and a librarian's job that indexes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import planted_objects
from handmade_draft import make_draft
from search_lab import SearchLab

from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.pointers import set_latest
from histgen_lib.catalogue.sign_off import SignOff, Wish
from histgen_lib.catalogue.signing import Signature
from histgen_lib.events import Event, ReportDrafted
from histgen_lib.files import sha256_hex
from histgen_lib.pipeline.job import silent
from histgen_lib.pipeline.shelve.job import ShelveJob
from histgen_lib.reports.record import CaseSlide
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.reports.renderers.draft_json import to_json
from histgen_lib.retrieval import CaseEntry
from histgen_lib.testing import MemoryBus
from histgen_lib.worker.handler import JobHandler

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def slide(slide_id: str) -> ReportOwner:
    return ReportOwner(slide_id)


def case(case_id: str) -> ReportOwner:
    return ReportOwner(case_id, is_case=True)


class ShelfLab(SearchLab):
    """`bus` has what was published; `at` is the time, which passes with every signature and withdrawal."""

    def __init__(self, index: Any = None, store: Any = None) -> None:
        super().__init__(index, store)
        self.bus, self.at = MemoryBus(), NOON
        self.sign_off = SignOff(self.store, self.bus, self._now)

    def _now(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    @property
    def job(self) -> ShelveJob:
        return ShelveJob(self.store, self.index, self.network, "words")

    @property
    def librarian(self) -> JobHandler:
        return JobHandler(self.job, "librarian", now=lambda: NOON)

    def scan(self, slide_id: str, shown: Sequence[str] = ("colon",), **of_case: Any) -> None:
        """Have a slide announced, and its bag stored."""
        planted_objects.scan(self.store, slide_id, **of_case)
        self.bag(slide_id, shown)

    def draft(self, owner: ReportOwner, text: str, *slides: str, turn: int = 0) -> Event:
        """Store a draft, the latest of its owner; return the event that says so."""
        digest = sha256_hex(f"{owner.name}|{text}".encode())
        draft = make_draft(slide_id=owner.id, text=text)
        if owner.is_case:
            parts = tuple(
                CaseSlide(
                    slide_id=one,
                    bag_digest=digest,
                    slide=draft.provenance.slide,
                    quality=draft.quality,
                )
                for one in slides
            )
            draft = draft.model_copy(update={"case_id": owner.id, "slides": parts})
        key = owner.report(digest, DRAFT_JSON)
        self.store.put(key, to_json(draft))
        set_latest(self.store, owner, digest, key, dict.fromkeys(slides or (owner.id,), turn))
        data = ReportDrafted(owner.id, digest, key, False, owner.id if owner.is_case else None)
        return Event.first(data, source="/histgen/reporter", now=NOON, identity=key)

    def sign(self, owner: ReportOwner, text: str | None = None, **more: Any) -> tuple[Signature, Event]:
        """Have a person sign; return what was written and the event that says so."""
        signature = self.sign_off.sign(Wish(owner, "Dr. A", text=text, **more))
        return signature, self.bus.published[-1]

    def withdraw(self, owner: ReportOwner) -> Event:
        """Have a person withdraw; return the event that says so."""
        self.sign_off.withdraw(owner, by="Dr. A", reason="wrong patient")
        return self.bus.published[-1]

    def deliver(self, event: Event) -> bool:
        """Have the librarian process an event; return whether there was anything to do."""
        librarian = self.librarian
        if librarian.find(event) is not None:
            return False
        assert not librarian.handle(event, silent).events
        return True

    def entry(self, slide_id: str) -> CaseEntry | None:
        return self.index.find(slide_id)

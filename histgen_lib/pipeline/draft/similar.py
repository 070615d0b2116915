"""The nearest signed cases of a draft: never its own, never synthetic ones, and never worth waiting for.

What is nearest depends on what the index holds at that moment. So the first answer is frozen beside the
report (`StoredReport.similar`), and whoever writes the report renders that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from histgen_lib.catalogue.cited import cited_slide
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.signing import shows_withdrawn
from histgen_lib.errors import HistgenError
from histgen_lib.pipeline.draft.kin import Kin
from histgen_lib.pipeline.draft.support import Seen, region_of
from histgen_lib.reports.record import Region, SimilarAnswer, SimilarCase, SimilarCases, SimilarPair
from histgen_lib.retrieval import CaseEntry, CaseIndex, Filters, Hit, Query, pairs_of
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger

PAIRS = 2
"""Pairs of regions that are shown of a case: enough to judge it by, few enough to look at."""
MOST_CHARACTERS = 1500
"""Of a case's report: a synoptic report is far shorter."""
LIMIT_S = 5.0

UNANSWERED: frozenset[SimilarAnswer] = frozenset({"away", "slow", "other-model"})
"""Answers that someone should look into."""

T = TypeVar("T")
_log = get_logger()


@dataclass
class NearestCases:
    """Looks for the nearest signed cases in an index, which is opened when it is first needed.

    `count`: how many; 0: none are looked for. `limit_s`: the longest that a draft waits for them. `store`:
    where the cited reports lie; None: the scale of their slides is not known. Safe to use from threads.
    """

    open_index: Callable[[], CaseIndex]
    store: ObjectStore | None = None
    count: int = 3
    limit_s: float = LIMIT_S
    _index: CaseIndex | None = field(default=None, repr=False)
    _asking: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def nearest(self, seen: Sequence[Seen], model: str, kin: Kin) -> SimilarCases:
        """Return the cases nearest to these slides, or why there is no answer; never raises.

        `model`: the digest of the network that saw them. `kin`: what they must not be compared with.
        """
        if self.count == 0:
            return no_answer("off", model)
        search = _Search(tuple(seen), model, kin, self.count, self.store)
        try:
            return self._within_limit(lambda: search.run(self._opened()))
        except TimeoutError:
            why: SimilarAnswer = "slow"
            _log.warning("The case index took too long; the draft goes without similar cases.")
        except HistgenError as error:
            why = "away"
            _log.warning("The case index did not answer.", code=error.code, reason=str(error))
        except Exception as error:  # whatever it is, the draft does not need the index
            why = "away"
            _log.error("The case index failed.", exc_info=error)
        return no_answer(why, model)

    def warm(self) -> None:
        """Begin to open the index, without waiting for it."""
        self._start(self._opened, Future())

    def _opened(self) -> CaseIndex:
        if self._index is None:
            self._index = self.open_index()
        return self._index

    def _within_limit(self, ask: Callable[[], T]) -> T:
        """Ask in a thread of its own. Raises TimeoutError; what then goes on hurts nobody."""
        until = time.monotonic() + self.limit_s
        answer: Future[T] = Future()
        self._start(ask, answer)
        return answer.result(max(0.0, until - time.monotonic()))

    def _start(self, ask: Callable[[], T], answer: Future[T]) -> None:
        def run() -> None:
            try:
                answer.set_result(self._alone(ask))
            except BaseException as error:  # whoever waits for the answer raises it
                answer.set_exception(error)

        threading.Thread(target=run, name="histgen-similar", daemon=True).start()

    def _alone(self, ask: Callable[[], T]) -> T:
        """Ask when no other question is being asked; else TimeoutError, so that threads never pile up."""
        if not self._asking.acquire(timeout=self.limit_s):
            raise TimeoutError
        try:
            return ask()
        finally:
            self._asking.release()


def shorten(report: str) -> str:
    """Cut a report that is too long to be shown; it then ends with "…", so that nobody takes it for whole."""
    return report if len(report) <= MOST_CHARACTERS else f"{report[: MOST_CHARACTERS - 1].rstrip()}…"


def no_answer(why: SimilarAnswer, model: str) -> SimilarCases:
    """Return an answer without cases."""
    return SimilarCases(answer=why, model=model, index_version=None, cases=())


@dataclass(frozen=True, eq=False)
class _Search:
    seen: tuple[Seen, ...]
    model: str
    kin: Kin
    count: int
    store: ObjectStore | None

    def run(self, index: CaseIndex) -> SimilarCases:
        state = index.state()
        cases = tuple(self._case(hit) for hit in self._hits(index))
        if not cases and state.cases and state.model != self.model:
            return no_answer("other-model", self.model)
        return SimilarCases(answer="answered", model=self.model, index_version=state.version, cases=cases)

    def _hits(self, index: CaseIndex) -> list[Hit]:
        """Ask for more and more, past the draft's own entries, until there are enough or no more."""
        found: list[Hit] = []
        passed, asked = set(self.kin.owners), self.count
        while True:
            hits = index.search(self._query(asked, frozenset(passed)))
            found += [hit for hit in hits if self._is_citable(hit.entry, passed)]
            if len(found) >= self.count or len(hits) < asked:
                return found[: self.count]
            passed |= {hit.entry.owner for hit in hits}
            asked *= 2

    def _query(self, count: int, without: frozenset[str]) -> Query:
        vectors = np.stack([one.vectors.slide for one in self.seen])
        filters = Filters(signed=True, synthetic=False, without=without)
        return Query(vectors, "slides", self.model, count, filters)

    def _is_citable(self, entry: CaseEntry, passed: set[str]) -> bool:
        """Check again what the index was asked for: a case that must not be cited is never cited."""
        fits = entry.signed and not entry.synthetic and entry.model == self.model
        if not fits or entry.owner in passed or self.kin.has(entry.owner, entry.slide_id, self.store):
            return False
        owner = ReportOwner.named(entry.owner)
        return self.store is None or not shows_withdrawn(self.store, owner, entry.slide_id)

    def _case(self, hit: Hit) -> SimilarCase:
        entry = hit.entry
        owner = ReportOwner.named(entry.owner)
        cited = self.store and cited_slide(self.store, owner, entry.report_digest, entry.slide_id)
        return SimilarCase(
            slide_id=entry.slide_id,
            case_id=owner.id if owner.is_case else None,
            report_digest=entry.report_digest,
            score=round(hit.score, 4),
            organ=entry.organ,
            diagnosis=entry.diagnosis,
            text=shorten(entry.text),
            mpp=cited.slide.mpp if cited else None,
            pairs=tuple(self._pairs(entry)),
        )

    def _pairs(self, entry: CaseEntry) -> Iterator[SimilarPair]:
        """Yield the pairs that are most alike, no region twice."""
        regions = np.concatenate([one.vectors.regions for one in self.seen])
        places = [(one.slide_id, region) for one in self.seen for region in one.regions()]
        used: set[tuple[str, Region]] = set()
        for pair in pairs_of(regions, entry.vectors):
            slide_id, here = places[pair.here]
            there = region_of(pair.box)
            both = {(slide_id, here), (f"/{entry.slide_id}", there)}
            if both & used:
                continue
            used |= both
            yield SimilarPair(
                here=here,
                here_slide_id=slide_id if len(self.seen) > 1 else None,
                there=there,
                similarity=round(pair.similarity, 4),
            )
            if len(used) == 2 * PAIRS:
                return

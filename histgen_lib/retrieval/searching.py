"""Searching for cases: a question in, the nearest cases out, each with the regions that are alike."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.retrieval._maxsim import pairs_of
from histgen_lib.retrieval._port import Against, CaseEntry, CaseIndex, Hit, IndexState, Query
from histgen_lib.retrieval.encoding import Box
from histgen_lib.retrieval.questions import Find, Kind, Question, check, check_organ, unknown_slide
from histgen_lib.retrieval.subjects import (
    Network,
    Own,
    Subject,
    bag_in_store,
    subject_of_bag,
    subject_of_entry,
    subject_of_text,
)
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class Route:
    """Which vectors of what is asked about are compared with which vectors of the cases."""

    ours: Literal["whole", "parts"]
    theirs: Against


ROUTES: dict[tuple[Kind, Find], Route] = {
    ("slide", "cases"): Route("whole", "slides"),
    ("region", "cases"): Route("parts", "regions"),
    ("text", "cases"): Route("whole", "slides"),
    ("slide", "reports"): Route("whole", "texts"),
    ("region", "reports"): Route("whole", "texts"),
    ("text", "reports"): Route("whole", "texts"),
}
"""The comparison that ranks the cases, by what is asked about and what is to be found."""

MOST_PAIRS = 5
"""Evidence pairs of a hit."""
_MARGIN = 8
"""Hits asked for beyond those wanted, in place of some that were withdrawn a moment ago."""
_READ_S = 6.0
"""Seconds that a slide's bag may take to come from the store."""


@dataclass(frozen=True)
class Evidence:
    """A part of what was asked about is most like this region of a case.

    `here`: a box of the slide that was asked about; None for words, which are in `words`. `there`: a box of
    the case's slide. Both x, y, width, height in level-0 px. `similarity`: the cosine.
    """

    here: Box | None
    words: str
    there: Box
    similarity: float


@dataclass(frozen=True, eq=False)
class Found:
    """A case that was found; `score` as `retrieval.Query` says for the route. `pairs`: most alike first."""

    entry: CaseEntry
    score: float
    pairs: tuple[Evidence, ...]


@dataclass(frozen=True)
class Answer:
    """The nearest cases, the best first, and the index they come from.

    `source`: what the slide or text was asked by: "index" (its stored vectors), "bag" (its tiles), "text".
    """

    question: Question
    found: tuple[Found, ...]
    state: IndexState
    source: str


@dataclass
class Searcher:
    """Answers questions. Safe to use from several threads.

    `network`: None for a model without one. `store`: where slides that are not in the index have their bags;
    None: there are no others. `bag`: a bag to ask about in place of the store's, by its slide's id. `state`:
    the index's state, if somebody keeps it at hand; else the index is asked. `withdrawn`: names of owners
    that are not to be found, and of slides, whatever the index says. `readers`: how many searches read bags
    from the store at a time.
    """

    index: CaseIndex
    network: Network | None
    store: ObjectStore | None = None
    bag: Bag | None = None
    state: Callable[[], IndexState | None] = lambda: None
    withdrawn: Callable[[], Collection[str]] = frozenset
    readers: int = 4
    _pool: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.readers, thread_name_prefix="bags")  # starts none before its use

    def reads_store(self, question: Question) -> bool:
        """Whether the answer takes a bag from the store, which may be slow. Raises as the index."""
        if question.kind == "text" or self.network is None or self.store is None:
            return False
        entry = self.index.find(question.slide)
        return question.kind == "region" or entry is None or entry.model != self.network.digest

    def answer(self, question: Question) -> Answer:
        """Search.

        Raises InvalidInputError: as `questions.check`, "model-no-retrieval", "organ-unknown",
        "query-slide-unknown", "query-region-outside", "query-region-empty", "bag-other-encoder", and for a
        bag that cannot be read; TransientError while index, store or model server are unavailable.
        """
        check(question)
        if self.network is None:
            raise _no_network()
        state = self._state(question.filters.organ)
        if not state.cases:
            return Answer(question, (), state, "index")
        subject = self._subject(self.network, question)
        hits = self._search(self.network, question, subject)
        found = tuple(Found(hit.entry, hit.score, _evidence(subject, hit.entry)) for hit in hits)
        return Answer(question, found, state, subject.source)

    def case(self, slide_id: str) -> CaseEntry:
        """Return what the index holds of a slide. Raises InvalidInputError("query-slide-unknown")."""
        entry = self.index.find(slide_id)
        if entry is None or _is_of(entry, set(self.withdrawn())):
            raise unknown_slide()
        return entry

    def _state(self, organ: str) -> IndexState:
        """Return the index's state, and refuse an organ that is not in it, nor came to it just now."""
        known = self.state()
        try:
            if known is not None:
                check_organ(organ, known)
                return known
        except InvalidInputError:
            pass  # it may have been written since
        state = self.index.state()
        check_organ(organ, state)
        return state

    def _subject(self, network: Network, question: Question) -> Subject:
        if question.kind == "text":
            return subject_of_text(network, question.text)
        entry = self.index.find(question.slide)
        if self.bag is not None and self.bag.slide_id == question.slide:
            own = Own.of(entry) if entry else Own(frozenset({question.slide}))
            return subject_of_bag(network, self.bag, own, question.region)
        if entry is None or entry.model != network.digest:
            return self._from_store(network, question)
        return self._region_of(network, question, entry) if question.region else subject_of_entry(entry, None)

    def _region_of(self, network: Network, question: Question, entry: CaseEntry) -> Subject:
        """Encode the tiles of the region; while they cannot be had, take the stored regions in its place."""
        try:
            subject = self._from_store(network, question)
            return replace(subject, own=replace(subject.own, owners=subject.own.owners | {entry.owner}))
        except TransientError:
            return subject_of_entry(entry, question.region)
        except InvalidInputError as error:
            if error.code != "query-slide-unknown":
                raise
            return subject_of_entry(entry, question.region)

    def _from_store(self, network: Network, question: Question) -> Subject:
        if self.store is None:
            raise unknown_slide()
        reading = self._pool.submit(bag_in_store, self.store, network, question.slide)
        try:
            bag, own = reading.result(timeout=_READ_S)
        except TimeoutError:
            reading.cancel()
            raise _slow_store() from None
        return subject_of_bag(network, bag, own, question.region)

    def _search(self, network: Network, question: Question, subject: Subject) -> list[Hit]:
        """Search until enough hits are left, not withdrawn nor of the own case, or no more are found."""
        route = ROUTES[question.kind, question.find]
        without = question.filters.without | subject.own.owners
        while True:
            query = Query(
                subject.vectors(route.ours),
                route.theirs,
                network.digest,
                question.count + _MARGIN,
                replace(question.filters, without=without),
            )
            hits, gone = self.index.search(query), set(self.withdrawn())
            left = [hit for hit in hits if not (_is_of(hit.entry, gone) or subject.own.has(hit.entry))]
            if len(left) >= question.count or len(left) == len(hits):
                return left[: question.count]
            without |= {hit.entry.owner for hit in hits} - {hit.entry.owner for hit in left}


def _is_of(entry: CaseEntry, withdrawn: Collection[str]) -> bool:
    """Whether an entry shows what is withdrawn: its report, or its slide, whichever report it is under."""
    return entry.owner in withdrawn or entry.slide_id in withdrawn


def _evidence(subject: Subject, entry: CaseEntry) -> tuple[Evidence, ...]:
    """Pair each part of what was asked about with the region of the case that is most like it."""
    pairs = pairs_of(subject.vectors("parts"), entry.vectors)[:MOST_PAIRS]
    paired = [(subject.parts[pair.here], pair) for pair in pairs]
    return tuple(Evidence(part.box, part.words, pair.box, pair.similarity) for part, pair in paired)


def _slow_store() -> TransientError:
    return TransientError(
        "storage-unavailable",
        "The store takes too long to send the slide's bag.",
        hint="Search again in a few seconds; slides that are in the index are found without it.",
    )


def _no_network() -> InvalidInputError:
    return InvalidInputError(
        "model-no-retrieval",
        "The model has no retrieval network, so cases cannot be compared.",
        hint="Use a model with one; docs/search.md says how it is trained.",
    )

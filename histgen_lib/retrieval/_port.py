"""The port to the case index: entries in, hits with their evidence out. All vectors have unit length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from histgen_lib.storage import StorageSettings

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Vectors:
    """A slide as the retrieval network sees it.

    `slide` float32[d]; `regions` float32[R, d], 1 to 25 of them; `boxes` int32[R, 4]: x, y, width and height
    of each region in level-0 px.
    """

    slide: Floats
    regions: Floats
    boxes: Ints


@dataclass(frozen=True, eq=False)
class CaseEntry:
    """One slide with the report that covers it.

    `owner`: the name of the report's owner (`catalogue.keys.ReportOwner.name`): the slide's id, or
    "case/<id>" for the one report of several slides, each of which is an entry. `text`: the report, `words`
    float32[d] its vector. `organ`, `diagnosis`: as parsed from the report; "" if it does not say. `stain`,
    `site`: as the lab states them; "" if it does not. `date`: of the scan, "YYYY-MM-DD". `synthetic`: the
    slide or the report's author is. `case_id`: of the case that the slide is said to belong to, though its
    report may be its own; "" for none. `model`: the digest of the retrieval network.
    """

    slide_id: str
    owner: str
    report_digest: str
    vectors: Vectors
    words: Floats
    text: str
    model: str
    signed: bool = False
    synthetic: bool = False
    organ: str = ""
    diagnosis: str = ""
    stain: str = ""
    site: str = ""
    date: str = ""
    case_id: str = ""


@dataclass(frozen=True)
class Filters:
    """Which entries count; what is None or "" does not matter.

    `organ`, `stain`, `site` are compared without case. `since`, `until`: the first and the last day,
    "YYYY-MM-DD". `signed`, `synthetic`: only those that are, or are not. `without`: names of owners left out.
    """

    organ: str = ""
    stain: str = ""
    site: str = ""
    since: str = ""
    until: str = ""
    signed: bool | None = None
    synthetic: bool | None = None
    without: frozenset[str] = frozenset()


Against = Literal["regions", "slides", "texts"]


@dataclass(frozen=True, eq=False)
class Query:
    """What to look for: `vectors` float32[Q, d], against one kind of vectors of the entries.

    "regions": late interaction, MaxSim: the mean over the query's vectors of their best cosine with any of
    an entry's regions. "slides", "texts": the mean cosine with the entry's one vector. `count`: how many
    hits. Only entries of `model` are compared: vectors of other networks mean something else.
    """

    vectors: Floats
    against: Against
    model: str
    count: int = 10
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class Pair:
    """Evidence: the query's vector number `here` is most like this region of the hit.

    `box`: x, y, width, height in level-0 px; `similarity`: the cosine.
    """

    here: int
    box: tuple[int, int, int, int]
    similarity: float


@dataclass(frozen=True, eq=False)
class Hit:
    """A case that was found: the best of its slides, `score` as `Query` says.

    `pairs`: the query's vectors with their best regions, most alike first, also for "slides" and "texts".
    `entry`: without its vectors' meaning changed; a caller that only shows hits reads its texts.
    """

    entry: CaseEntry
    score: float
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class IndexState:
    """What an index holds. `version` rises with every rebuild and compaction; `organs`: in use, sorted."""

    version: int
    model: str
    cases: int
    slides: int
    regions: int
    size_bytes: int
    organs: tuple[str, ...]


@dataclass(frozen=True)
class CaseIndexSettings:
    """Where the index is, and how much of it to hold in memory.

    `storage`: its own folder or S3 prefix, which nothing else writes to. `resident`: read all vectors once
    and keep them, for a process that does nothing but search; others read the candidates of each search.
    """

    storage: StorageSettings
    resident: bool = False


class CaseIndex(Protocol):
    """The index of one lab. Safe to use from several threads, and by several processes at once.

    Every method raises TransientError("case-index-unavailable") while the storage is unavailable or slow, and
    FatalError("case-index-unusable") for one that cannot be read.
    """

    def put(self, entries: Sequence[CaseEntry]) -> None:
        """Write entries, each in place of the one with its slide id; durable when it returns.

        Of two writers of one slide at once, one wins; there is never more than one entry of a slide. A signed
        entry is not replaced by an unsigned one of the same report.
        """
        ...

    def find(self, slide_id: str) -> CaseEntry | None:
        """Return the entry of a slide; None if there is none."""
        ...

    def copies(self, slide_id: str) -> list[CaseEntry | None]:
        """Return a slide's entry in the index and, while a next version is being filled, in that one.

        Both hold it once a `put` has returned; a writer that was killed may have got to one only.
        """
        ...

    def withdraw(self, owners: Iterable[str]) -> int:
        """Delete all entries of these owners, and count them. No search that starts later finds them."""
        ...

    def search(self, query: Query) -> list[Hit]:
        """Return the best `query.count` cases, the best first, one hit a case."""
        ...

    def compact(self) -> None:
        """Drop what is deleted or replaced from storage, older versions included, and index what is new."""
        ...

    def drop_withdrawn(self, others: Callable[[], Iterable[str]] = tuple) -> int:
        """Compact if anything withdrawn is still in storage; then without entries of `others` either.

        `others` returns the names of withdrawn owners; what is put after it was called stays. Their entries
        are counted. So of many cases that are withdrawn in a row, not each costs a copy of the index.
        """
        ...

    def rebuild(
        self, model: str, entries: Callable[[], Iterable[CaseEntry]], *, progress: Callable[[int], None]
    ) -> IndexState:
        """Write a new version of the index from these entries, then switch to it; searches go on meanwhile.

        What is put or withdrawn meanwhile is in the new version, too. `progress` gets the count so far.
        """
        ...

    def state(self) -> IndexState:
        """Say what the index holds."""
        ...

    def behind_s(self) -> float:
        """Return for how many seconds what is searched has not been compared with the storage; never raises.

        0 for an index that reads its storage for every answer.
        """
        ...

    def close(self) -> None:
        """Release it."""
        ...

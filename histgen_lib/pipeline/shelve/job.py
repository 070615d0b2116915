"""report.drafted, report.signed, case.withdrawn → the case index says of a slide or case what the store says.

An event only says whose turn it is: what is to be found is read from the store, so that events may come in
any order, late, and again. The store is read once more after the index was written, until both agree: of two
librarians who write about one case, the last to write has seen what the other knew. Killed in between, the
event comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from histgen_lib.catalogue.case import slides_of
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.registry import covering_owner
from histgen_lib.catalogue.signing import withdrawn_owners
from histgen_lib.events import CaseWithdrawn, Event, ReportDrafted, ReportSigned
from histgen_lib.pipeline.job import Done, ModelInUse, Progress, Stages, lacking, silent
from histgen_lib.retrieval import CaseEntry, CaseIndex
from histgen_lib.retrieval.encoding import IMAGE, TEXT
from histgen_lib.retrieval.standing import Standing, contended, entries_of, shows, standing_of
from histgen_lib.retrieval.subjects import Network
from histgen_lib.storage import ObjectStore

Shelved = ReportDrafted | ReportSigned | CaseWithdrawn

COMPACT_EVERY, COMPACT_SHARE = 500, 0.1
"""After so many slides, and so large a part of the index, that is compacted: what was replaced is dropped,
what is new is indexed. It is written anew for that: the larger it is, the more rarely."""
MOST_ROUNDS = 8
"""So often others may change what is written, or what is to be written, before the event waits."""


@dataclass
class ShelveJob:
    """Keeps the index; see `histgen_lib.pipeline.job.Job`. Nothing follows from its events.

    `name`: of the model, for the metrics. `compact_every`: slides between two compactions by this process.
    """

    store: ObjectStore
    index: CaseIndex
    network: Network
    name: str
    compact_every: int = COMPACT_EVERY
    takes: ClassVar[tuple[type[Shelved], ...]] = (ReportDrafted, ReportSigned, CaseWithdrawn)
    _since: int = field(default=0, init=False)

    def find(self, event: Event, data: Shelved) -> Done[Shelved] | None:
        """See Job. A withdrawal is never found done: what is left of it in storage has to be looked for."""
        owner = _owner(data)
        standing = standing_of(self.store, owner)
        if standing is None or isinstance(data, CaseWithdrawn):
            return None
        return Done(None) if self._is_shelved(standing) else None

    def run(self, event: Event, data: Shelved, progress: Progress = silent) -> Done[Shelved]:
        """See Job. Raises what store, bags, inference server and index raise."""
        owner, stages = _owner(data), Stages(progress)
        if isinstance(data, CaseWithdrawn):
            self._drop_withdrawn(owner, stages)
        for _ in range(MOST_ROUNDS):
            standing = standing_of(self.store, owner)
            if self._agrees(standing, owner):
                self._compact_in_time(stages)
                return Done(None, stages.measures())
            self._put(standing, stages) if standing else self._drop_withdrawn(owner, stages)
        raise contended(owner)

    def lacking(self) -> Sequence[str]:
        """See Job."""
        missing = lacking(self.network.server, IMAGE, self.store)
        return missing if self.network.server.ready(TEXT) else [*missing, f"model {TEXT}"]

    def models(self) -> Sequence[ModelInUse]:
        """See Job."""
        server, digest = self.network.server, self.network.digest[:12]
        return [ModelInUse(one, self.name, digest, server.engine(one)) for one in (IMAGE, TEXT)]

    def _agrees(self, standing: Standing | None, owner: ReportOwner) -> bool:
        return self._is_absent(owner) if standing is None else self._is_shelved(standing)

    def _is_shelved(self, standing: Standing) -> bool:
        copies = (copy for slide in standing.slides for copy in self.index.copies(slide))
        return all(shows(copy, standing, self.network.digest) for copy in copies)

    def _is_absent(self, owner: ReportOwner) -> bool:
        return not self._left(owner)

    def _put(self, standing: Standing, stages: Stages) -> None:
        with stages("encode"):
            entries = list(entries_of(self.store, self.network, standing))
        with stages("store"):
            if not standing.signed and self._is_signed_there(standing):
                self.index.withdraw([standing.owner.name])
            self.index.put(entries)
        self._since += len(entries)
        stages.count("histgen_cases_shelved_total", len(entries))

    def _is_signed_there(self, standing: Standing) -> bool:
        """Whether the index has a signature of this report that the store has not any more."""
        entries = filter(None, map(self.index.find, standing.slides))
        return any(entry.signed and entry.report_digest == standing.report_digest for entry in entries)

    def _drop_withdrawn(self, owner: ReportOwner, stages: Stages) -> None:
        """Remove an owner's entries, unless a person has signed again, and all that is left in storage."""
        if standing_of(self.store, owner) is None:
            with stages("withdraw"):
                # Its own first, then gone: whoever is killed in between still finds them.
                elsewhere = [entry for entry in self._left(owner) if entry.owner != owner.name]
                self.index.put([replace(entry, owner=owner.name) for entry in elsewhere])
                gone = self.index.withdraw([owner.name])
            stages.count("histgen_cases_withdrawn_total", gone)
        with stages("compact"):
            gone = self.index.drop_withdrawn(self._all_withdrawn)
        stages.count("histgen_cases_withdrawn_total", gone)

    def _all_withdrawn(self) -> list[str]:
        return [owner.name for owner in withdrawn_owners(self.store)]

    def _left(self, owner: ReportOwner) -> list[CaseEntry]:
        """Return what the index has of an owner; entries of slides that have become its own since, too."""
        entries = filter(None, map(self.index.find, sorted(slides_of(self.store, [owner.name]))))
        return [
            entry
            for entry in entries
            if entry.owner == owner.name or covering_owner(self.store, entry.slide_id) == owner
        ]

    def _compact_in_time(self, stages: Stages) -> None:
        if self._since >= self.compact_every and self._since >= COMPACT_SHARE * self.index.state().slides:
            self._compact(stages)

    def _compact(self, stages: Stages) -> None:
        with stages("compact"):
            self.index.compact()
        self._since = 0


def _owner(data: Shelved) -> ReportOwner:
    return ReportOwner(data.slide_id, is_case=data.case_id is not None)

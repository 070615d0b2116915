"""Removing what nobody needs any more, by kind and age; see docs/keeping.md.

It is safe beside a running stack: nothing unfinished, nothing that a pointer names, and no slide's last
letter is touched. It is safe to kill: of a report or a bag the object that says it is whole goes first, and
the next prune takes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

from histgen_lib.bus import BusSettings, finished_records
from histgen_lib.catalogue import keys
from histgen_lib.catalogue.audit import Audit, this_account
from histgen_lib.catalogue.case import events_of, folder_owner
from histgen_lib.catalogue.cited import is_there
from histgen_lib.catalogue.dead_letter import GATEWAY, DeadLetter
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.pointers import BY_BAG, latest_of, pointer_of, recall_pointer, stated_owner
from histgen_lib.catalogue.registry import find_event
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.storage import ObjectInfo, ObjectStore

DAY_S, _MOST_DAYS = 86400.0, 100_000
_IN_USE_S = 3600.0
"""What is younger may be in use by a worker, whatever age is asked for."""


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be. `key`: of an object; of the broker's records their topic."""

    kind: str
    key: str
    size_bytes: int


def read_retention(text: str) -> dict[str, float]:
    """Read "90" (days, for every kind) or "seen=90,reports=365" as days by kind; "" keeps everything.

    Raises InvalidInputError("retention-invalid").
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) == 1 and "=" not in parts[0]:
        parts = [f"{kind}={parts[0]}" for kind in KINDS]
    found = dict(part.partition("=")[::2] for part in parts)
    try:
        days = {kind.strip(): float(number) for kind, number in found.items()}
    except ValueError:
        days = {}
    if len(days) < len(parts) or not all(
        kind in KINDS and 0 <= number < _MOST_DAYS for kind, number in days.items()
    ):
        raise InvalidInputError(
            "retention-invalid",
            "The retention cannot be read.",
            hint=f'Write days, "90", or days by kind, "seen=90,reports=365". Kinds: {", ".join(KINDS)}.',
        )
    return days


def prune(
    store: ObjectStore,
    bus: BusSettings | None,
    days: Mapping[str, float],
    *,
    dry_run: bool = False,
    by: str = "",
    now: datetime | None = None,
) -> Iterator[Removed]:
    """Remove what is older than so many days, by kind; a kind that is not in `days` is kept.

    `by`: who asks for it, for the audit log, which is written first; this account if empty. Yields each thing
    when it is removed; with `dry_run` nothing is. `now`: UTC. Raises as store and broker.
    """
    at = now or datetime.now(UTC)
    deed = _Deed(store, by or this_account(), days)
    pruner = _Pruner(store, bus, at.timestamp(), None if dry_run else deed)
    for kind, method in KINDS.items():
        if kind in days:
            for key, size_bytes in method(pruner, at.timestamp() - days[kind] * DAY_S):
                yield Removed(kind, key, size_bytes)


def tally(removed: Iterable[Removed]) -> dict[str, tuple[int, int]]:
    """Return, by kind, how many things were removed, and their bytes."""
    counts: dict[str, tuple[int, int]] = {}
    for one in removed:
        count, size_bytes = counts.get(one.kind, (0, 0))
        counts[one.kind] = count + 1, size_bytes + one.size_bytes
    return counts


Gone = Iterator[tuple[str, int]]


class _Deed:
    """What is about to be done, for the audit log: written once, if anything is."""

    def __init__(self, store: ObjectStore, by: str, days: Mapping[str, float]) -> None:
        self._store, self._by = store, by
        self._what = {kind: f"{days[kind]:g}" for kind in KINDS if kind in days}

    def log(self) -> None:
        if self._what:
            Audit(self._store).append("pruned", self._by, self._what)
            self._what = {}


class _Pruner:
    """Removes what was last written before a time, in seconds since 1970: one method for each kind.

    `deed` None: only yields what it would remove.
    """

    def __init__(self, store: ObjectStore, bus: BusSettings | None, now: float, deed: _Deed | None) -> None:
        self._store, self._bus, self._now, self._deed = store, bus, now, deed
        self._in_cases: set[str] | None = None

    def broker(self, before: float) -> Gone:
        """Remove records that every group has finished."""
        if self._bus:
            at = datetime.fromtimestamp(before, UTC)
            if self._deed and any(finished_records(self._bus, at, remove=False)):
                self._deed.log()
            yield from finished_records(self._bus, at, remove=self._deed is not None)

    def seen(self, before: float) -> Gone:
        """Remove the marks that spare a second look at files: a file that is still there is known anyway."""
        yield from self._remove(info for info in self._store.list(keys.SEEN) if _is_old(info, before))

    def letters(self, before: float) -> Gone:
        """Remove letters that were replayed, once their slide has a draft or another scan."""
        for info in self._store.list(keys.REPLAYED_LETTERS):
            if _is_old(info, before) and self._is_settled(info.key):
                yield from self._remove([info])

    def reports(self, before: float) -> Gone:
        """Remove reports that are not the latest of a slide or case, and will not be soon."""
        for area in (keys.CASE_REPORTS, keys.REPORTS):
            yield from self._folders(area, partial(self._superseded, area), before)
        yield from self._remove(info for info in self._store.list(keys.CITED) if self._is_stale(info, before))

    def bags(self, before: float) -> Gone:
        """Remove bags of earlier scans and models that no case names."""
        yield from self._folders(keys.BAGS, self._unused, before)

    def attempts(self, before: float) -> Gone:
        """Remove counts of attempts at events that have no letter."""
        for info in self._store.list(keys.ATTEMPTS):
            event_id = info.key.removeprefix(keys.ATTEMPTS).split("/")[1]
            if _is_old(info, self._not_in_use(before)) and not self._store.head(keys.letter_key(event_id)):
                yield from self._remove([info])

    def _folders(
        self, area: str, unneeded: Callable[[str, dict[str, list[ObjectInfo]]], list[str]], before: float
    ) -> Gone:
        """Remove the unneeded sets of each slide or case, by digest, that are old enough."""
        before = self._not_in_use(before)
        for owner, infos in groupby(self._store.list(area), lambda info: info.key.split("/")[1]):
            sets = _by_digest(infos)
            old = {one: all(_is_old(info, before) for info in found) for one, found in sets.items()}
            if not any(old.values()):
                continue
            for digest in unneeded(owner, sets):
                if old[digest]:
                    yield from self._remove(sorted(sets[digest], key=_says_whole))

    def _superseded(self, area: str, owner_id: str, sets: Mapping[str, list[ObjectInfo]]) -> list[str]:
        """Return the reports that a later one has replaced; old ones of cases may lie among a slide's."""
        case = ReportOwner(owner_id, is_case=True)
        if len(sets) < 2 and (area == keys.CASE_REPORTS or self._store.head(case.latest) is None):
            return []
        owner = case if area == keys.CASE_REPORTS else ReportOwner(owner_id)
        return [one for one in sets if self._is_superseded(owner, one)]

    def _is_stale(self, info: ObjectInfo, before: float) -> bool:
        """Whether a note of a citation is about a report that is gone, or was never finished."""
        citing, digest = keys.citation_of(info.key)
        return _is_old(info, self._not_in_use(before)) and not is_there(self._store, citing, digest)

    def _is_superseded(self, owner: ReportOwner, digest: str) -> bool:
        if self._store.head(keys.signed_key(owner, digest)):  # a person's word outlives later drafts
            return False
        data = self._store.find(owner.report(digest, DRAFT_JSON))
        whose = stated_owner(data or b"") or folder_owner(self._store, owner)
        shown = Overview(self._store).shown(events_of(self._store, whose))
        if whose.id != owner.id or shown is None or digest in shown:
            return False
        latest = {latest_of(self._store, whose, damaged=digest)}
        if data and not stated_owner(data):  # damaged: perhaps the other owner's with this id, which needs it
            other = ReportOwner(owner.id, not whose.is_case)
            latest.add(latest_of(self._store, other, damaged=digest))
        return digest not in latest and any(latest)

    def _unused(self, slide_id: str, sets: Mapping[str, list[ObjectInfo]]) -> list[str]:
        event = find_event(self._store, slide_id) if len(sets) > 1 else None
        if event is None or not self._is_drafted([event]):
            return []
        assert isinstance(event.data, SlideScanned)
        current = [one for one in sets if self._content_of(slide_id, one) == event.data.content_id]
        if not current:
            return []
        newest = max(current, key=lambda one: max(info.modified_at for info in sets[one]))
        return [one for one in sets if one != newest and one not in self._named_by_cases()]

    def _content_of(self, slide_id: str, digest: str) -> str:
        from histgen_lib.catalogue.scan_record import ScanRecord

        try:
            data = self._store.find(keys.scan_key(slide_id, digest))
            return ScanRecord.from_bytes(data or b"").content_id
        except InvalidInputError:
            return ""

    def _named_by_cases(self) -> set[str]:
        if self._in_cases is None:
            pointers = {pointer_of(info.key) for info in self._store.list(keys.CASES)}
            recalled = (recall_pointer(self._store, key, by=BY_BAG) for key in pointers)
            self._in_cases = {str(pointer[BY_BAG]) for pointer in recalled if pointer}
        return self._in_cases

    def _is_drafted(self, events: Iterable[Event]) -> bool:
        """Whether these slides all have a draft; False without slides, as nothing else is known then."""
        return Overview(self._store).shown(events) is not None

    def _is_settled(self, key: str) -> bool:
        """Whether nothing depends any longer on knowing that this letter was replayed."""
        try:
            letter = DeadLetter.from_bytes(self._store.find(key) or b"")
        except InvalidInputError:
            return False
        if letter.event is None or letter.worker == GATEWAY:
            return True
        event = find_event(self._store, letter.event.key)
        return event is None or event.trace_id != letter.event.trace_id or self._is_drafted([event])

    def _not_in_use(self, before: float) -> float:
        return min(before, self._now - _IN_USE_S)

    def _remove(self, infos: Iterable[ObjectInfo]) -> Gone:
        for info in infos:
            if self._deed:
                self._deed.log()
                self._store.delete(info.key)
            yield info.key, info.size_bytes


def _is_old(info: ObjectInfo, before: float) -> bool:
    """Whether an object was written before; False where the server does not say when."""
    return 0 < info.modified_at < before


def _by_digest(infos: Iterable[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Group the objects of a slide's bags or reports by digest; others, like pointers, are left out."""
    found: dict[str, list[ObjectInfo]] = {}
    for info in infos:
        name = info.key.split("/", 2)[2]
        digest = name.partition("/")[0] if "/" in name else name.partition(".")[0]
        if len(digest) == _DIGEST_LENGTH:
            found.setdefault(digest, []).append(info)
    return found


def _says_whole(info: ObjectInfo) -> tuple[bool, bool]:
    """Sort first the digests of a set, then the object that says that the set is there."""
    name = info.key.rpartition("/")[2]
    return not name.endswith(keys.DIGESTS), not name.endswith((DRAFT_JSON, keys.SCAN_RECORD))


_DIGEST_LENGTH = 64
KINDS: dict[str, Callable[[_Pruner, float], Gone]] = {
    "broker": _Pruner.broker,
    "seen": _Pruner.seen,
    "letters": _Pruner.letters,
    "reports": _Pruner.reports,
    "bags": _Pruner.bags,
    "attempts": _Pruner.attempts,
}
"""What can be pruned."""

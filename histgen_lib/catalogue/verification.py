"""Checking that every object in the store is what was written: bit rot, lost files, other people's writing.

The store is read once, in the order of its keys, and memory stays flat: what belongs together lies together.
A verification that is stopped goes on where it was. Hints are not checked: marks of files that need no second
look (gateway/seen/) and counts of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.case import folder_owner
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.integrity import (
    Damage,
    Fault,
    all_notes,
    etag_of,
    fault_of,
    forget_damage,
    note_damage,
    parse_digests,
)
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.pointers import (
    BY_BAG,
    BY_REPORT,
    named_drafts,
    pointer_faults,
    pointer_of,
    recall_pointer,
    stated_owner,
)
from histgen_lib.catalogue.registry import (
    NOBODY,
    Announcement,
    read_announcement,
    read_owner,
    recover_announcement,
)
from histgen_lib.catalogue.signing import Signature, Withdrawal
from histgen_lib.catalogue.verification_state import Progress, Tally, read_state, state_json
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.reports.renderers import DRAFT_JSON, file_names
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.storage import JSON, ObjectInfo, ObjectStore

Check = Callable[[ObjectStore, list[ObjectInfo], Tally], Iterator[Damage]]
KINDS = (
    "bag", "case", "letter", "by-hand", "content", "copy", "owner", "report", "pointer", "scan", "signature",
    "withdrawal",
)  # fmt: skip
"""What an object is: features, thumbnail or scan record; a slide's part in a case; a dead letter; a record of
the registry; a file of a report; which report is the latest; a slide's latest event; what a person said."""
_SAVE_S = 5.0


class Verification:
    """Goes on with one that was stopped, unless it is to begin `anew`, and notes the damage.

    `now`: seconds since 1970; `clock`: monotonic seconds. `healed`: once it has run, the owners of objects
    that are no longer damaged.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        anew: bool = False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._now, self._clock = store, now, clock
        saved = None if anew else read_state(store.find(keys.CURSOR))
        self.resumed = saved is not None
        self.healed: set[str] = set()
        self.progress, self.tally = saved or (Progress(now()), Tally())

    def run(self) -> Generator[list[Damage], None, None]:
        """Yield, step by step, what is damaged. Raises as the store; what was done by then is kept."""
        began, saved_s, start = self._clock(), self.progress.seconds, self.progress.after
        found: set[str] = set()
        save_at = began + _SAVE_S
        try:
            for after, damages in walk(self._store, self.tally, after=start):
                for damage in damages:
                    note_damage(self._store, damage)
                    found.add(damage.key)
                self.progress.after = after
                self.progress.seconds = saved_s + self._clock() - began
                if self._clock() > save_at:
                    self._save(keys.CURSOR)
                    save_at = self._clock() + _SAVE_S
                yield damages
        except BaseException:
            self._save(keys.CURSOR)
            raise
        for damage in [one for one in all_notes(self._store) if one.key > start and one.key not in found]:
            forget_damage(self._store, damage)
            self.healed |= {damage.owner} - {""}
        self._save(keys.LAST_VERIFICATION)
        self._store.delete(keys.CURSOR)

    def summary(self) -> dict[str, Any]:
        """Return its result as JSON values."""
        tally = self.tally
        return {
            "objects": tally.objects,
            "size_bytes": tally.size_bytes,
            "undigested": tally.undigested,
            "damaged": dict(sorted(tally.damaged.items())),
            "seconds": round(self.progress.seconds, 3),
        }

    def _save(self, key: str) -> None:
        state = state_json(self.progress, self.tally, self._now())
        self._store.put(key, sealed_json(state), if_absent=False, content_type=JSON)


def walk(store: ObjectStore, tally: Tally, *, after: str = "") -> Iterator[tuple[str, list[Damage]]]:
    """Check all objects behind the key `after`; yield what is damaged, and the key up to which all is done.

    What belongs together is one step. Raises what the store raises.
    """
    for prefix, group, check in _AREAS:
        if after and after > prefix and not after.startswith(prefix):
            continue
        listed = (info for info in store.list(prefix) if info.key > after)
        for _, found in groupby(listed, lambda info, group=group: group(info.key)):  # type: ignore[misc]
            infos = list(found)
            tally.objects += len(infos)
            tally.size_bytes += sum(info.size_bytes for info in infos)
            etags = {info.key: info.etag for info in infos}
            damages = [sure for one in check(store, infos, tally) if (sure := _confirmed(store, one, etags))]
            tally.damaged.update(one.kind for one in damages)
            yield infos[-1].key, damages


def check_slide(store: ObjectStore, slide_id: str, case_id: str | None = None) -> list[Damage]:
    """Check all objects of one slide, and of its case, at once."""
    found: list[Damage] = []
    owners = [ReportOwner(slide_id), *([ReportOwner(case_id, is_case=True)] if case_id else [])]
    for prefix, _, check in _AREAS:
        infos = {info.key: info for place in _places(prefix, owners) for info in store.list(place)}
        for _, part in groupby([infos[key] for key in sorted(infos)], lambda info: _folder(info.key)):
            found += check(store, list(part), Tally())
    if not store.head(keys.scanned_key(slide_id)) and recover_announcement(store, slide_id):
        found.append(Damage(keys.scanned_key(slide_id), "scan", Fault.MISSING, slide_id))
    names = {owner.name for owner in owners}
    return list({one.key: one for one in found if one.owner in names}.values())


def _places(prefix: str, owners: Iterable[ReportOwner]) -> Iterator[str]:
    """Yield where in an area objects of these owners lie; a slide's reports may be old ones of a case."""
    of_cases, of_slides = (
        (keys.CASES, keys.CASE_REPORTS, keys.REPORTS),
        (keys.BAGS, keys.BY_HAND, keys.REPORTS, keys.SLIDES),
    )
    for owner in owners:
        if prefix in (of_cases if owner.is_case else of_slides):
            yield f"{prefix}{owner.id}/"


def _confirmed(store: ObjectStore, damage: Damage, etags: Mapping[str, str]) -> Damage | None:
    """Note in which state the object is; None if it was written or removed while it was checked.

    `etags`: what was listed before, by key.
    """
    etag = etag_of(store, damage.key)
    before = "" if damage.why == Fault.MISSING else etag  # of what lies in another area
    return replace(damage, etag=etag) if etag == etags.get(damage.key, before) else None


def _bags(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check all bags of a slide."""
    slide_id = infos[0].key.split("/")[1]
    there = {info.key for info in infos}
    for digest in sorted({_name(key).partition(".")[0] for key in there}):
        members = keys.bag_keys(slide_id, digest)
        sums = keys.bag_digests_key(slide_id, digest)
        if sums not in there and members[-1] not in there:
            continue  # it is being written, or was not finished
        yield from _set(store, sums, members, kind="bag", owner=slide_id, tally=tally)


def _reports(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check all reports of a slide or a case, and the pointer to the latest.

    Earlier versions have left reports of cases among those of slides: each says itself whose it is.
    """
    area, owner_id = infos[0].key.split("/")[:2]
    owner = ReportOwner(owner_id, is_case=f"{area}/" == keys.CASE_REPORTS)
    there = {info.key for info in infos}
    pointers = {key for key in there if pointer_of(key) == owner.latest}
    digests = {keys.report_digest(key) for key in there - pointers if key.count("/") > 2}
    whose = folder_owner(store, owner)
    if pointers:
        yield from _pointer(store, owner.latest, BY_REPORT, "pointer", whose.name)
    elif any(owner.report(one, keys.DIGESTS) in there for one in digests):
        yield Damage(owner.latest, "pointer", Fault.MISSING, whose.name)
    latest = (recall_pointer(store, owner.latest, by=BY_REPORT) or {}).get(BY_REPORT)
    elsewhere = [key for key in named_drafts(owner, {BY_REPORT: latest}) if not key.startswith(owner.prefix)]
    if isinstance(latest, str) and not any(map(store.head, elsewhere)):
        digests.add(latest)
    for digest in sorted(digests):
        yield from _report(store, owner, whose, digest, latest=digest == latest, tally=tally)


def _report(
    store: ObjectStore, owner: ReportOwner, whose: ReportOwner, digest: str, *, latest: bool, tally: Tally
) -> Iterator[Damage]:
    key = partial(owner.report, digest)
    data = store.find(key(DRAFT_JSON))
    draft = readable_draft(data or b"")
    sums = key(keys.DIGESTS)
    if data is None and not (latest or store.head(sums)):
        return  # it is being written, was not finished, or is being pruned
    names = file_names(draft)
    name = (stated_owner(data or b"") or whose).name
    yield from _set(store, sums, [key(one) for one in names], kind="report", owner=name, tally=tally)


def _set(
    store: ObjectStore, sums: str, members: list[str], *, kind: str, owner: str, tally: Tally
) -> Iterator[Damage]:
    data = store.find(sums)
    digests = None if data is None else parse_digests(sums, data)
    if data is not None and digests is None:
        yield Damage(sums, kind, Fault.UNREADABLE, owner)
    for key in {*members, *(digests or ())}:
        digest = (digests or {}).get(key)
        tally.undigested += digest is None
        if why := fault_of(store, key, digest):
            yield Damage(key, kind, why, owner)


def _cases(store: ObjectStore, infos: list[ObjectInfo], _: Tally) -> Iterator[Damage]:
    case = ReportOwner(infos[0].key.split("/")[1], is_case=True)
    for key in sorted({pointer_of(info.key) for info in infos}):
        yield from _pointer(store, key, BY_BAG, "case", case.name)


def _pointer(store: ObjectStore, key: str, by: str, kind: str, owner: str) -> Iterator[Damage]:
    for fault in pointer_faults(store, key, by=by):
        yield Damage(fault, kind, Fault.MISSING if store.head(fault) is None else Fault.UNREADABLE, owner)


def _letters(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        data = store.find(info.key)
        try:
            sound = data is None or _name(DeadLetter.from_bytes(data).key) == _name(info.key)
        except InvalidInputError:
            sound = False
        tally.undigested += sound and not _is_sealed(data)
        if not sound:
            yield Damage(info.key, "letter", Fault.UNREADABLE)


def _slides(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check a slide's latest event, and whether the other records have it, too."""
    for info in infos:
        slide_id = keys.slide_of_scanned(info.key)
        if not slide_id or info.key != keys.scanned_key(slide_id):
            continue
        data = store.find(info.key)
        latest = read_announcement(data, slide_id)
        tally.undigested += bool(latest) and not _is_sealed(data)
        if latest is None:
            yield Damage(info.key, "scan", Fault.UNREADABLE, slide_id)
            latest = recover_announcement(store, slide_id, data or b"")
        yield from _beside(store, slide_id, latest)


def _beside(store: ObjectStore, slide_id: str, latest: Announcement | None) -> Iterator[Damage]:
    """Check that the other records have a slide's latest event; one by hand once its slide was read."""
    by_hand = latest is not None and latest.is_by_hand
    if latest and by_hand and not latest.event.replay and store.head(latest.by_hand_key) is None:
        yield Damage(latest.by_hand_key, "by-hand", Fault.MISSING, slide_id)
    if latest and not by_hand and store.head(latest.content_key) is None:
        yield Damage(latest.content_key, "content", Fault.MISSING, slide_id)
    was_read = not by_hand or (latest is not None and store.head(latest.content_key) is not None)
    if was_read and store.head(keys.owner_key(slide_id)) is None:
        yield Damage(keys.owner_key(slide_id), "owner", Fault.MISSING, slide_id)


def _by_hand(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check the events that the gateway did not announce, and that their slide has its record."""
    for info in infos:
        slide_id = info.key.removeprefix(keys.BY_HAND).partition("/")[0]
        data = store.find(info.key)
        one = read_announcement(data, slide_id)
        tally.undigested += bool(one) and not _is_sealed(data)
        if one is None or one.by_hand_key != info.key:
            yield Damage(info.key, "by-hand", Fault.UNREADABLE, slide_id)
        elif store.head(keys.scanned_key(slide_id)) is None:
            yield Damage(keys.scanned_key(slide_id), "scan", Fault.MISSING, slide_id)


def _contents(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check the events that were announced, and that their slides have their records."""
    for info in infos:
        data = store.find(info.key)
        one = read_announcement(data)
        tally.undigested += bool(one) and not _is_sealed(data)
        if one is None or one.content_key != info.key:
            yield Damage(info.key, "content", Fault.UNREADABLE)
        elif store.head(keys.scanned_key(one.event.key)) is None:
            yield Damage(keys.scanned_key(one.event.key), "scan", Fault.MISSING, one.event.key)


def _copies(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        data, owner = store.find(info.key), _name(info.key)
        tally.undigested += not _is_sealed(data)
        if not _has_uri(data):
            yield Damage(info.key, "copy", Fault.UNREADABLE, owner)


def _owners(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        slide_id = info.key.removeprefix(keys.OWNERS)
        data = store.find(info.key)
        tally.undigested += not _is_sealed(data)
        if read_owner(data, slide_id) in (None, NOBODY):
            yield Damage(info.key, "owner", Fault.UNREADABLE, slide_id)


def _said(kind: str, read: Callable[[bytes | None, str], object]) -> Check:
    """Return the check of what people said about reports. A person alone can say it again."""

    def check(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
        for info in infos:
            if read(store.find(info.key), info.key) is None and store.head(info.key):
                yield Damage(info.key, kind, Fault.UNREADABLE, keys.owner_of(info.key).name)

    return check


def _folder(key: str) -> str:
    """Return the folder of what belongs to one slide or case."""
    return "/".join(key.split("/")[:2])


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _has_uri(data: bytes | None) -> bool:
    try:
        return isinstance(unsealed(data or b"")["uri"], str)
    except (ValueError, TypeError, KeyError):
        return False


def _is_sealed(data: bytes | None) -> bool:
    return b'"seal":"' in (data or b"")


_AREAS: tuple[tuple[str, Callable[[str], str], Check], ...] = (
    (keys.BAGS, _folder, _bags),
    (keys.CASE_REPORTS, _folder, _reports),
    (keys.CASES, _folder, _cases),
    (keys.REPLAYED_LETTERS, str, _letters),
    (keys.LETTERS, str, _letters),
    (keys.BY_HAND, str, _by_hand),
    (keys.CONTENTS, str, _contents),
    (keys.COPIES, str, _copies),
    (keys.OWNERS, str, _owners),
    (keys.REPORTS, _folder, _reports),
    (keys.SIGNED, str, _said("signature", Signature.read)),
    (keys.SLIDES, _folder, _slides),
    (keys.WITHDRAWN, str, _said("withdrawal", Withdrawal.read)),
)
"""What is checked, in the order of the keys; what of it belongs together; and the check."""

"""Looking whether every object in the store is what was written: bit rot, lost files, other people's writing.

The store is read once, in the order of its keys, and memory stays flat: what belongs together lies together.
A walk that is stopped goes on where it was. Notes of what needs no second look (gateway/seen/) and counts of
attempts are hints, and are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.damage import Damage, etag_of
from histgen_lib.catalogue.dead_letter import PREFIX as LETTERS
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.digests import Fault, fault_of, parse_digests
from histgen_lib.catalogue.keys import CASE_REPORTS, REPORTS, SLIDES, ReportOwner
from histgen_lib.catalogue.latest import named_drafts, owner_told
from histgen_lib.catalogue.pointer import BY_BAG, BY_REPORT, pointer_faults, pointer_of, recall_pointer
from histgen_lib.catalogue.recall import NOBODY, Said, owner_in, recalled, said_in
from histgen_lib.catalogue.recovery import room_owner, slide_of
from histgen_lib.catalogue.replay import REPLAYED_PREFIX
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import unsealed
from histgen_lib.reports.renderers import file_names
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.storage import ObjectInfo, ObjectStore

BAGS, CASES = "bags/", "cases/"
KINDS = ("bag", "case", "letter", "by-hand", "content", "copy", "owner", "report", "pointer", "scan")
"""What an object is: features, thumbnail or scan record; a slide's part in a case; a dead letter; the
books; a file of a report; which report is the latest; a slide's latest event."""


@dataclass
class Tally:
    """What was looked at so far. `undigested`: objects of which no version wrote down what they hold."""

    objects: int = 0
    size_bytes: int = 0
    undigested: int = 0
    damaged: Counter[str] = field(default_factory=Counter)


def walk(store: ObjectStore, tally: Tally, *, after: str = "") -> Iterator[tuple[str, list[Damage]]]:
    """Look at all objects behind the key `after`; yield what is damaged, and the key up to which all is done.

    What belongs together is one step. Raises what the store raises.
    """
    for room, group, check in _ROOMS:
        if after and after > room and not after.startswith(room):
            continue
        listed = (info for info in store.list(room) if info.key > after)
        for _, found in groupby(listed, lambda info, group=group: group(info.key)):  # type: ignore[misc]
            infos = list(found)
            tally.objects += len(infos)
            tally.size_bytes += sum(info.size_bytes for info in infos)
            etags = {info.key: info.etag for info in infos}
            damages = [seen for one in check(store, infos, tally) if (seen := _seen(store, one, etags))]
            tally.damaged.update(one.kind for one in damages)
            yield infos[-1].key, damages


def check_slide(store: ObjectStore, slide_id: str, case_id: str | None = None) -> list[Damage]:
    """Look at all objects of one slide, and of its case, at once."""
    found: list[Damage] = []
    owners = [ReportOwner(slide_id), *([ReportOwner(case_id, is_case=True)] if case_id else [])]
    for room, _, check in _ROOMS:
        infos = {info.key: info for prefix in _prefixes(room, owners) for info in store.list(prefix)}
        for _, part in groupby([infos[key] for key in sorted(infos)], lambda info: _owner(info.key)):
            found += check(store, list(part), Tally())
    if not store.head(keys.scanned_key(slide_id)) and recalled(store, slide_id):
        found.append(Damage(keys.scanned_key(slide_id), "scan", Fault.MISSING, slide_id))
    names = {owner.name for owner in owners}
    return list({one.key: one for one in found if one.owner in names}.values())


def _prefixes(room: str, owners: Iterable[ReportOwner]) -> Iterator[str]:
    """Say where in a room objects of these lie; in that of slides there are old reports of cases, too."""
    for owner in owners:
        if room in ((CASES, CASE_REPORTS, REPORTS) if owner.is_case else (BAGS, REPORTS, SLIDES)):
            yield f"{room}{owner.id}/"
        elif room == keys.BY_HAND and not owner.is_case:
            yield keys.taken_prefix(owner.id)


def _seen(store: ObjectStore, damage: Damage, etags: Mapping[str, str]) -> Damage | None:
    """Note in which state the object is; None if it was written or removed while it was looked at.

    `etags`: what was listed before, by key.
    """
    etag = etag_of(store, damage.key)
    before = "" if damage.why == Fault.MISSING else etag  # of what lies in another room
    return replace(damage, etag=etag) if etag == etags.get(damage.key, before) else None


def _owner(key: str) -> str:
    return "/".join(key.split("/")[:2])


def _bags(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check all bags of a slide."""
    slide_id = infos[0].key.split("/")[1]
    there = {info.key for info in infos}
    for digest in sorted({key.rpartition("/")[2].partition(".")[0] for key in there}):
        wanted = keys.bag_keys(slide_id, digest)
        sums = keys.bag_digests_key(slide_id, digest)
        if sums not in there and wanted[-1] not in there:
            continue  # it is being written, or was not finished
        yield from _set(store, sums, wanted, kind="bag", owner=slide_id, tally=tally)


def _reports(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check all reports of a slide or a case, and the pointer to the latest.

    Earlier versions have left reports of cases among those of slides: each says itself whose it is.
    """
    room, owner_id = infos[0].key.split("/")[:2]
    owner = ReportOwner(owner_id, is_case=f"{room}/" == CASE_REPORTS)
    there = {info.key for info in infos}
    pointers = {key for key in there if pointer_of(key) == owner.latest}
    made = {key.split("/")[2] for key in there - pointers if key.count("/") > 2}
    whose = room_owner(store, owner)
    if pointers:
        yield from _pointer(store, owner.latest, BY_REPORT, "pointer", whose.name)
    elif any(owner.report(one, keys.DIGESTS) in there for one in made):
        yield Damage(owner.latest, "pointer", Fault.MISSING, whose.name)
    latest = (recall_pointer(store, owner.latest, by=BY_REPORT) or {}).get(BY_REPORT)
    elsewhere = [key for key in named_drafts(owner, {BY_REPORT: latest}) if not key.startswith(owner.prefix)]
    if isinstance(latest, str) and not any(map(store.head, elsewhere)):
        made.add(latest)
    for digest in sorted(made):
        yield from _report(store, owner, whose, digest, latest=digest == latest, tally=tally)


def _report(
    store: ObjectStore, owner: ReportOwner, whose: ReportOwner, digest: str, *, latest: bool, tally: Tally
) -> Iterator[Damage]:
    key = partial(owner.report, digest)
    data = store.find(key(keys.DRAFT_JSON))
    draft = readable_draft(data or b"")
    sums = key(keys.DIGESTS)
    if data is None and not (latest or store.head(sums)):
        return  # it is being written, was not finished, or is being pruned
    names = file_names(draft) if draft else [keys.DRAFT_TEXT, keys.DRAFT_HTML, keys.DRAFT_JSON]
    name = (owner_told(data or b"") or whose).name
    yield from _set(store, sums, [key(one) for one in names], kind="report", owner=name, tally=tally)


def _set(
    store: ObjectStore, sums: str, wanted: list[str], *, kind: str, owner: str, tally: Tally
) -> Iterator[Damage]:
    data = store.find(sums)
    digests = None if data is None else parse_digests(sums, data)
    if data is not None and digests is None:
        yield Damage(sums, kind, Fault.UNREADABLE, owner)
    for key in {*wanted, *(digests or ())}:
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
            sound = data is None or DeadLetter.from_bytes(data).key.rpartition("/")[2] == _name(info.key)
        except InvalidInputError:
            sound = False
        tally.undigested += sound and not _is_sealed(data)
        if not sound:
            yield Damage(info.key, "letter", Fault.UNREADABLE)


def _slides(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check a slide's latest event, and whether the other books have it, too."""
    for info in infos:
        slide_id = slide_of(info)
        if info.key != keys.scanned_key(slide_id):
            continue
        data = store.find(info.key)
        said = said_in(data, slide_id)
        tally.undigested += bool(said) and not _is_sealed(data)
        if said is None:
            yield Damage(info.key, "scan", Fault.UNREADABLE, slide_id)
            said = recalled(store, slide_id, data or b"")
        yield from _beside(store, slide_id, said)


def _beside(store: ObjectStore, slide_id: str, said: Said | None) -> Iterator[Damage]:
    """Check that the books have what a slide's latest event says; of others' once its slide was read."""
    by_hand = said is not None and said.is_by_hand
    if said and by_hand and not said.event.replay and store.head(said.by_hand_key) is None:
        yield Damage(said.by_hand_key, "by-hand", Fault.MISSING, slide_id)
    if said and not by_hand and store.head(said.content_key) is None:
        yield Damage(said.content_key, "content", Fault.MISSING, slide_id)
    was_read = not by_hand or (said is not None and store.head(said.content_key) is not None)
    if was_read and store.head(keys.owner_key(slide_id)) is None:
        yield Damage(keys.owner_key(slide_id), "owner", Fault.MISSING, slide_id)


def _by_hand(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check the events that the gateway did not announce, and that their slide has its record."""
    for info in infos:
        slide_id = info.key.removeprefix(keys.BY_HAND).partition("/")[0]
        data = store.find(info.key)
        said = said_in(data, slide_id)
        tally.undigested += bool(said) and not _is_sealed(data)
        if said is None or said.by_hand_key != info.key:
            yield Damage(info.key, "by-hand", Fault.UNREADABLE, slide_id)
        elif store.head(keys.scanned_key(slide_id)) is None:
            yield Damage(keys.scanned_key(slide_id), "scan", Fault.MISSING, slide_id)


def _contents(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check the events that were announced, and that each slide of theirs has its record."""
    for info in infos:
        data = store.find(info.key)
        said = said_in(data)
        tally.undigested += bool(said) and not _is_sealed(data)
        if said is None or said.content_key != info.key:
            yield Damage(info.key, "content", Fault.UNREADABLE)
        elif store.head(keys.scanned_key(said.event.key)) is None:
            yield Damage(keys.scanned_key(said.event.key), "scan", Fault.MISSING, said.event.key)


def _copies(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        data, owner = store.find(info.key), info.key.split("/")[-1]
        tally.undigested += not _is_sealed(data)
        if not _says(data, "uri"):
            yield Damage(info.key, "copy", Fault.UNREADABLE, owner)


def _owners(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        slide_id = info.key.removeprefix(keys.OWNERS)
        data = store.find(info.key)
        tally.undigested += not _is_sealed(data)
        if owner_in(data, slide_id) in (None, NOBODY):
            yield Damage(info.key, "owner", Fault.UNREADABLE, slide_id)


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _says(data: bytes | None, name: str) -> bool:
    try:
        return isinstance(unsealed(data or b"")[name], str)
    except (ValueError, TypeError, KeyError):
        return False


def _is_sealed(data: bytes | None) -> bool:
    return b'"seal":"' in (data or b"")


Check = Callable[[ObjectStore, list[ObjectInfo], Tally], Iterator[Damage]]
_ROOMS: tuple[tuple[str, Callable[[str], str], Check], ...] = (
    (BAGS, _owner, _bags),
    (CASE_REPORTS, _owner, _reports),
    (CASES, _owner, _cases),
    (REPLAYED_PREFIX, str, _letters),
    (LETTERS, str, _letters),
    (keys.BY_HAND, str, _by_hand),
    (keys.CONTENTS, str, _contents),
    (keys.COPIES, str, _copies),
    (keys.OWNERS, str, _owners),
    (REPORTS, _owner, _reports),
    (SLIDES, _owner, _slides),
)
"""What is looked at, in the order of the keys; what of it belongs together; and how it is looked at."""

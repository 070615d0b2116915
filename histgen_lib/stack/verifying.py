"""Looking whether every object in the store is what was written: bit rot, lost files, other people's writing.

The store is read once, in the order of its keys, and memory stays flat: what belongs together lies together.
A walk that is stopped goes on where it was. Notes of what needs no second look (gateway/seen/) and counts of
attempts are hints, and are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import recorded_scan
from histgen_lib.files import unsealed
from histgen_lib.pipeline import keys
from histgen_lib.pipeline.digests import Fault, fault_of, parse_digests
from histgen_lib.pipeline.made import read_object
from histgen_lib.pipeline.pointer import BY_BAG, BY_REPORT, pointer_faults, pointer_of, recall_pointer
from histgen_lib.pipeline.report_files import file_names
from histgen_lib.reports.render_json import readable_draft
from histgen_lib.stack.damage import Damage, etag_of
from histgen_lib.stack.recovery import content_key, own_scan, owner_of, recalled_scan
from histgen_lib.storage import ObjectInfo, ObjectStore
from histgen_lib.worker.dead_letter import PREFIX as LETTERS
from histgen_lib.worker.dead_letter import DeadLetter
from histgen_lib.worker.replay import REPLAYED_PREFIX

BAGS, CASES, REPORTS, SLIDES = "bags/", "cases/", "reports/", "slides/"
KINDS = ("bag", "case", "letter", "content", "copy", "owner", "report", "pointer", "scan")
"""What an object is: features, thumbnail or scan record; a slide's part in a case; a dead letter; the
gateway's books; a file of a report; which report is the latest; a slide's latest event."""
_SCANNED = "/scanned.json"


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
            damages = [replaced for one in check(store, infos, tally) if (replaced := _still(store, one))]
            tally.damaged.update(one.kind for one in damages)
            yield infos[-1].key, damages


def check_slide(store: ObjectStore, slide_id: str, case_id: str | None = None) -> list[Damage]:
    """Look at all objects of one slide, and of its case, at once."""
    found: list[Damage] = []
    owners = [slide_id] if case_id is None else [slide_id, case_id]
    for room, _, check in _ROOMS:
        prefixes = _prefixes(room, owners)
        infos = [info for prefix in prefixes for info in store.list(prefix)]
        found += check(store, infos, Tally()) if infos else ()
    if not store.head(keys.scanned_key(slide_id)) and recalled_scan(store, slide_id):
        found.append(Damage(keys.scanned_key(slide_id), "scan", Fault.MISSING, slide_id))
    return list({one.key: one for one in found}.values())


def _prefixes(room: str, owners: Iterable[str]) -> list[str]:
    if room in (BAGS, REPORTS, SLIDES, CASES):
        return [f"{room}{owner}/" for owner in owners]
    return []


def _still(store: ObjectStore, damage: Damage) -> Damage | None:
    """Note in which state the object is."""
    return Damage(damage.key, damage.kind, damage.why, damage.owner, etag_of(store, damage.key))


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
    """Check all reports of a slide or a case, and the pointer to the latest."""
    owner = infos[0].key.split("/")[1]
    there = {info.key for info in infos}
    pointer_key = keys.latest_key(owner)
    pointers = {key for key in there if pointer_of(key) == pointer_key}
    if pointers:
        yield from _pointer(store, pointer_key, BY_REPORT, "pointer", owner)
    latest = (recall_pointer(store, pointer_key, by=BY_REPORT) or {}).get(BY_REPORT)
    made = {key.split("/")[2] for key in there - pointers if key.count("/") > 2}
    for digest in sorted(made | ({latest} if isinstance(latest, str) else set())):
        yield from _report(store, owner, digest, latest=digest == latest, tally=tally)
    if made and not pointers and any(keys.report_key(owner, one, keys.DIGESTS) in there for one in made):
        yield Damage(pointer_key, "pointer", Fault.MISSING, owner)


def _report(store: ObjectStore, owner: str, digest: str, *, latest: bool, tally: Tally) -> Iterator[Damage]:
    key = partial(keys.report_key, owner, digest)
    draft = readable_draft(read_object(store, key(keys.DRAFT_JSON)) or b"")
    there = store.head(key(keys.DRAFT_JSON)) is not None
    sums = key(keys.DIGESTS)
    if not (there or latest or store.head(sums)):
        return  # it is being written, was not finished, or is being pruned
    names = file_names(draft) if draft else [keys.DRAFT_TEXT, keys.DRAFT_HTML, keys.DRAFT_JSON]
    yield from _set(store, sums, [key(name) for name in names], kind="report", owner=owner, tally=tally)


def _set(
    store: ObjectStore, sums: str, wanted: list[str], *, kind: str, owner: str, tally: Tally
) -> Iterator[Damage]:
    data = read_object(store, sums)
    digests = None if data is None else parse_digests(sums, data)
    if data is not None and digests is None:
        yield Damage(sums, kind, Fault.UNREADABLE, owner)
    for key in {*wanted, *(digests or ())}:
        digest = (digests or {}).get(key)
        tally.undigested += digest is None
        if why := fault_of(store, key, digest):
            yield Damage(key, kind, why, owner)


def _cases(store: ObjectStore, infos: list[ObjectInfo], _: Tally) -> Iterator[Damage]:
    case_id = infos[0].key.split("/")[1]
    for key in sorted({pointer_of(info.key) for info in infos}):
        yield from _pointer(store, key, BY_BAG, "case", case_id)


def _pointer(store: ObjectStore, key: str, by: str, kind: str, owner: str) -> Iterator[Damage]:
    for fault in pointer_faults(store, key, by=by):
        yield Damage(fault, kind, Fault.MISSING if store.head(fault) is None else Fault.UNREADABLE, owner)


def _letters(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        data = read_object(store, info.key)
        try:
            sound = data is None or DeadLetter.from_bytes(data).key.rpartition("/")[2] == _name(info.key)
        except InvalidInputError:
            sound = False
        tally.undigested += sound and not _is_sealed(data)
        if not sound:
            yield Damage(info.key, "letter", Fault.UNREADABLE)


def _slides(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check a slide's latest event, and whether the books by content and by owner have it, too."""
    for info in infos:
        slide_id = info.key.removeprefix(SLIDES).removesuffix(_SCANNED)
        if info.key != keys.scanned_key(slide_id):
            continue
        data = read_object(store, info.key)
        event = own_scan(slide_id, data)
        tally.undigested += bool(event) and not _is_sealed(data)
        if event is None:
            yield Damage(info.key, "scan", Fault.UNREADABLE, slide_id)
            event = recalled_scan(store, slide_id, data or b"")
        if event and store.head(content_key(event)) is None:
            yield Damage(content_key(event), "content", Fault.MISSING, slide_id)
        if store.head(keys.owner_key(slide_id)) is None:
            yield Damage(keys.owner_key(slide_id), "owner", Fault.MISSING, slide_id)


def _contents(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    """Check the events that were announced, and that each slide of theirs has its record."""
    for info in infos:
        data = read_object(store, info.key)
        event = recorded_scan(data or b"")
        tally.undigested += bool(event) and not _is_sealed(data)
        if event is None or content_key(event) != info.key:
            yield Damage(info.key, "content", Fault.UNREADABLE)
        elif store.head(keys.scanned_key(event.key)) is None:
            yield Damage(keys.scanned_key(event.key), "scan", Fault.MISSING, event.key)


def _copies(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        data, owner = read_object(store, info.key), info.key.split("/")[-1]
        tally.undigested += not _is_sealed(data)
        if not _says(data, "uri"):
            yield Damage(info.key, "copy", Fault.UNREADABLE, owner)


def _owners(store: ObjectStore, infos: list[ObjectInfo], tally: Tally) -> Iterator[Damage]:
    for info in infos:
        slide_id = info.key.removeprefix(keys.OWNERS)
        tally.undigested += not _is_sealed(read_object(store, info.key))
        if owner_of(store, slide_id) is None:
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
    (CASES, _owner, _cases),
    (REPLAYED_PREFIX, str, _letters),
    (LETTERS, str, _letters),
    (keys.CONTENTS, str, _contents),
    (keys.COPIES, str, _copies),
    (keys.OWNERS, str, _owners),
    (REPORTS, _owner, _reports),
    (SLIDES, _owner, _slides),
)
"""What is looked at, in the order of the keys; what of it belongs together; and how it is looked at."""

"""What the jobs read and write in the store, each as one thing: a slide's bag, a report's sources, a report.

Only this module knows which objects each consists of and in which order they are written: the last one, a
scan record or draft.json, shows that all of them are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from histgen_lib.bags import Bag, pack_bag, unpack_bag
from histgen_lib.catalogue.case import Member, case_members, is_of_case
from histgen_lib.catalogue.integrity import StoredFile, fault_of, is_whole, read_digests, store_set
from histgen_lib.catalogue.keys import (
    DIGESTS,
    ReportOwner,
    bag_digests_key,
    bag_key,
    bag_keys,
    bag_thumbnail_key,
    scan_key,
)
from histgen_lib.catalogue.pointers import BY_REPORT, is_about, named_drafts, set_latest
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady
from histgen_lib.reports.record import DraftReport, SimilarCases
from histgen_lib.reports.renderers import DRAFT_JSON, SIMILAR, RenderedFile, file_names
from histgen_lib.reports.renderers.draft_json import readable_draft
from histgen_lib.reports.renderers.similar_json import readable_similar, to_json
from histgen_lib.storage import JSON, PARQUET, WEBP, ObjectStore


@dataclass(frozen=True)
class StoredBag:
    """A slide's bag, thumbnail and scan record, under the digest of what decides their bytes."""

    store: ObjectStore
    slide_id: str
    digest: str

    @property
    def key(self) -> str:
        """The key of the bag."""
        return bag_key(self.slide_id, self.digest)

    @property
    def scan_key(self) -> str:
        """The key of the scan record."""
        return scan_key(self.slide_id, self.digest)

    def find(self) -> tuple[ScanRecord, int] | None:
        """Return the scan record and the bag's size in bytes if all objects are there and sound."""
        record = self.store.find(self.scan_key)
        bag = self.store.head(self.key) if record is not None else None
        keys = bag_keys(self.slide_id, self.digest)
        if record is None or bag is None or not is_whole(self.store, self._digests_key, keys):
            return None
        return ScanRecord.from_bytes(record), bag.size_bytes

    def write(self, bag: Bag, thumbnail: bytes, record: ScanRecord) -> int:
        """Write what is missing or damaged, the scan record last; return the stored bag's size in bytes."""
        data = pack_bag(bag)
        ours, *_ = store_set(
            self.store,
            [
                StoredFile(self.key, data, PARQUET),
                StoredFile(bag_thumbnail_key(self.slide_id, self.digest), thumbnail, WEBP),
                StoredFile(self.scan_key, record.to_bytes(), JSON),
            ],
            self._digests_key,
        )
        stored = None if ours else self.store.head(self.key)
        return stored.size_bytes if stored else len(data)

    @property
    def _digests_key(self) -> str:
        return bag_digests_key(self.slide_id, self.digest)


@dataclass(frozen=True)
class Source:
    """A slide that a report is made from: its part in the case, if there is one, and its scan record."""

    store: ObjectStore
    member: Member
    scan: ScanRecord

    def bag(self) -> Bag:
        """Read the bag. Raises InvalidInputError("bag-other-slide"), and what storage and bags raise."""
        slide_id = self.member.slide_id
        bag = unpack_bag(self.store.get(self.member.bag_key), f"the bag of {slide_id}")
        if bag.slide_id != slide_id or tuple(bag.slide_size) != self.scan.size_px:
            raise _other_slide(slide_id)
        return bag

    def thumbnail(self) -> bytes:
        """Read the WebP of the whole slide."""
        return self.store.get(bag_thumbnail_key(self.member.slide_id, self.member.bag_digest))


def source_of(store: ObjectStore, member: Member, content_id: str | None = None) -> Source:
    """Read the scan record of a slide, whose content id must be `content_id` if that is known.

    Anybody may publish an event: it must name the slide's own bag. Raises InvalidInputError:
    "bag-other-slide", "scan-record-unreadable", "object-missing".
    """
    own = StoredBag(store, member.slide_id, member.bag_digest)
    if (member.bag_key, member.scan_key) != (own.key, own.scan_key):
        raise _other_slide(member.slide_id)
    scan = ScanRecord.from_bytes(store.get(member.scan_key))
    if scan.slide_id != member.slide_id or content_id not in (None, scan.content_id):
        raise _other_slide(member.slide_id)
    return Source(store, member, scan)


def sources_of(store: ObjectStore, ready: BagReady) -> tuple[ReportOwner, list[Source]] | None:
    """Return the owner and the sources of the report that a bag belongs to; None while slides are missing.

    Raises as `source_of`, and InvalidInputError("case-unreadable").
    """
    if not is_of_case(ready):
        return ReportOwner(ready.slide_id), [source_of(store, Member.of(ready), ready.content_id)]
    members = case_members(store, ready)
    if members is None:
        return None
    return ReportOwner(str(ready.case_id), is_case=True), [source_of(store, member) for member in members]


@dataclass(frozen=True)
class StoredReport:
    """A report of a slide or a case, under the digest of what decides its bytes."""

    store: ObjectStore
    owner: ReportOwner
    digest: str

    def find(self, turns: Mapping[str, int]) -> tuple[DraftReport, str] | None:
        """Return the draft and its key if all files are there and sound, and have the pointer name it.

        `turns`: of each slide that the report is made from, see `set_latest`.
        """
        for key in self._places():
            data = self.store.find(key)
            draft = None if data is None else readable_draft(data)
            if draft and self._is_whole(draft, key.removesuffix(DRAFT_JSON)):
                set_latest(self.store, self.owner, self.digest, key, turns)
                return draft, key
        return None

    def write(self, files: Sequence[RenderedFile], turns: Mapping[str, int]) -> str:
        """Write what is missing or damaged, in order, then have the pointer name it; return the draft's key.

        A damaged report of an earlier version is repaired in its place.
        """
        folder = self._folder()
        stored = [StoredFile(folder + file.name, file.data, file.media_type) for file in files]
        store_set(self.store, stored, folder + DIGESTS)
        set_latest(self.store, self.owner, self.digest, folder + DRAFT_JSON, turns)
        return folder + DRAFT_JSON

    def similar(
        self, ask: Callable[[], SimilarCases], is_citable: Callable[[SimilarCases], bool]
    ) -> SimilarCases:
        """Return the similar cases that the report shows: of several writers, the first one's `ask()`.

        What lies in similar.json holds; if that is damaged, what draft.json says. If both are lost, or the
        report was not finished and what it was to show is not `is_citable` any more, all that was written is
        removed and `ask` is called.
        """
        folder = self._folder()
        kept, is_finished = self._kept_similar(folder)
        if kept and (is_finished or is_citable(kept)):
            return kept
        if kept or self.store.head(folder + SIMILAR):
            self._clear(folder)
        answer = to_json(ask())
        while True:  # once, unless another writer removes it as well
            self.store.put(folder + SIMILAR, answer, content_type=JSON)
            if frozen := readable_similar(self.store.find(folder + SIMILAR) or b""):
                return frozen

    def _kept_similar(self, folder: str) -> tuple[SimilarCases | None, bool]:
        """Return what an earlier writer chose, if that can be read, and whether draft.json was written."""
        known = read_digests(self.store, folder + DIGESTS) or {}
        sound = [
            None if fault_of(self.store, key, known.get(key)) else self.store.find(key)
            for key in (folder + SIMILAR, folder + DRAFT_JSON)
        ]
        draft = readable_draft(sound[1]) if sound[1] else None
        kept = readable_similar(sound[0]) if sound[0] else draft.similar if draft else None
        return kept, draft is not None or bool(known)

    def _clear(self, folder: str) -> None:
        """Remove what was written, draft.json first: no file may rest on cases that others do not show."""
        written = [info.key for info in self.store.list(folder)]
        for key in sorted(written, key=lambda key: key != folder + DRAFT_JSON):
            self.store.delete(key)

    def _folder(self) -> str:
        """Return where its files lie: at today's place, unless an earlier version has begun it elsewhere."""
        places = [key.removesuffix(DRAFT_JSON) for key in self._places()]
        return next((place for place in places if any(self.store.list(place))), places[0])

    def _places(self) -> list[str]:
        """Return the keys under which draft.json may lie, today's first."""
        return list(named_drafts(self.owner, {BY_REPORT: self.digest}))

    def _is_whole(self, draft: DraftReport, folder: str) -> bool:
        ours = is_about(self.owner, {"slide_id": draft.slide_id, "case_id": draft.case_id})
        return ours and is_whole(self.store, folder + DIGESTS, [folder + name for name in file_names(draft)])


def _other_slide(slide_id: str) -> InvalidInputError:
    return InvalidInputError(
        "bag-other-slide",
        f"The object named as the bag of {slide_id}, or stored in its place, belongs to another slide.",
        hint="Have the event name the slide's own bag; delete a bag that is stored in the wrong place.",
    )

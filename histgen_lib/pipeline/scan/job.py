"""slide.scanned → bag.ready: a slide's bag, thumbnail and scan record in the object store.

Where they lie follows from what decides on their bytes, all of it known before the slide is opened. The scan
record is written last: where it lies, the job is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from histgen_lib.access.file_checks import changed, present_files, unchanged
from histgen_lib.access.slide_files import SlideFile, SlideFiles
from histgen_lib.bags import Bag, pack_bag
from histgen_lib.bags.bag import SCHEMA_VERSION as BAG_SCHEMA
from histgen_lib.catalogue.integrity import StoredFile, is_whole, store_set
from histgen_lib.catalogue.keys import bag_digests_key, bag_key, bag_keys, bag_thumbnail_key, scan_key
from histgen_lib.catalogue.objects import Made
from histgen_lib.catalogue.scan_record import ScanRecord, record_scan
from histgen_lib.events import BagReady, SlideScanned
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.pictures import make_thumbnail
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.provenance import SOFTWARE
from histgen_lib.pipeline.scan.scan import scan_to_bag
from histgen_lib.pipeline.timing import Stages
from histgen_lib.slides import open_slide
from histgen_lib.slides.fingerprint import fingerprint_of
from histgen_lib.slides.quotas import DEFAULT_TILES
from histgen_lib.storage import JSON, PARQUET, WEBP, ObjectStore


@dataclass(frozen=True)
class _Read:
    """What was made of a slide, before it is stored."""

    bag: Bag
    record: ScanRecord
    thumbnail: bytes


@dataclass(frozen=True)
class ScanJob:
    """Makes bags. `in_flight`: calls of the server at a time; the bags do not depend on it.

    `most_tiles`: what a slide may have.
    """

    model: ReportModel
    server: InferenceServer
    store: ObjectStore
    files: SlideFiles
    in_flight: int = 1
    most_tiles: int = DEFAULT_TILES

    def find(self, scanned: SlideScanned) -> BagReady | None:
        """Return what `run` would tell, if it was done before; opens no slide, but looks for its sidecar.

        What is damaged was not done: then `run` puts sound bytes in its place.
        Raises InvalidInputError: "slide-sidecar-invalid", "slide-uri", "uri-outside-roots"; and what the
        store raises.
        """
        digest = self._digest(scanned)
        record = self.store.find(scan_key(scanned.slide_id, digest))
        bag = self.store.head(bag_key(scanned.slide_id, digest)) if record is not None else None
        if record is None or bag is None or not self._is_whole(scanned.slide_id, digest):
            return None
        return _ready(scanned, digest, ScanRecord.from_bytes(record), bag.size_bytes)

    def _is_whole(self, slide_id: str, digest: str) -> bool:
        return is_whole(self.store, bag_digests_key(slide_id, digest), bag_keys(slide_id, digest))

    def run(
        self, scanned: SlideScanned, progress: Progress = silent, *, as_found: bool = False
    ) -> Made[BagReady]:
        """Read and encode the slide, and store what came of it; doing it twice gives the same bytes.

        `as_found`: take what lies at the slide's place now, as if that had been announced. Otherwise raises
        InvalidInputError("slide-changed") if the file is not, or not any more, what was announced; and what
        opening, cutting and reading slides, the server and the store raise; see `SlideFiles.open` too.
        """
        stages = Stages()
        progress("open", 0, 1)
        with self.files.open(scanned.uri) as file:
            path = file.path
            with stages("open"):
                parts, before, found = present_files(
                    path, None if as_found else scanned.size_bytes, most_bytes=self.files.most_bytes
                )
            if as_found:
                scanned = replace(scanned, content_id=found)
            elif found != scanned.content_id:
                raise changed(path)
            digest = self._digest(scanned)
            with unchanged(path, parts, before):
                read = self._read(file, parts, scanned, progress, stages)
            if self._digest(scanned) != digest:
                raise changed(path)  # its sidecar did: the bag would lie under another scale's name
        progress("store", 0, 1)
        with stages("store"):
            ready = self._store(scanned, digest, read)
        progress("store", 1, 1)
        tiles = {"histgen_tiles_read_total": len(read.bag), "histgen_tiles_encoded_total": len(read.bag)}
        return Made(ready, stages.measures() | tiles)

    def _digest(self, scanned: SlideScanned) -> str:
        """Digest what decides on the bag's bytes."""
        beside = self.files.sidecar_mpp(scanned.uri) if scanned.mpp is None else None
        return sha256_hex(
            canonical_json(
                {
                    "software": SOFTWARE,
                    "schema": BAG_SCHEMA,
                    "slide": scanned.content_id,
                    "id": scanned.slide_id,
                    "mpp": scanned.mpp,
                    "sidecar_mpp": beside,
                    "tiling": asdict(self.model.tiling),
                    "encoder": self.model.encoder_sha256 or self.model.folder.digest,
                }
            )
        )

    def _read(
        self,
        file: SlideFile,
        parts: Sequence[Path],
        scanned: SlideScanned,
        progress: Progress,
        stages: Stages,
    ) -> _Read:
        with stages("open"):
            slide = open_slide(file.path, mpp=scanned.mpp, slide_id=scanned.slide_id, within=file.within)
        with slide:
            progress("open", 1, 1)
            scan = scan_to_bag(
                slide,
                model=self.model,
                server=self.server,
                in_flight=self.in_flight,
                most_tiles=self.most_tiles,
                progress=progress,
                stages=stages,
            )
            with stages("render"):
                thumbnail = make_thumbnail(slide)
        record = record_scan(
            slide,
            tiling=self.model.tiling,
            quality=scan.quality,
            tiles=len(scan.bag),
            content_id=scanned.content_id,
            fingerprint=fingerprint_of(parts),
        )
        return _Read(scan.bag, record, thumbnail)

    def _store(self, scanned: SlideScanned, digest: str, read: _Read) -> BagReady:
        slide_id, data = scanned.slide_id, pack_bag(read.bag)
        ours, *_ = store_set(
            self.store,
            [
                StoredFile(bag_key(slide_id, digest), data, PARQUET),
                StoredFile(bag_thumbnail_key(slide_id, digest), read.thumbnail, WEBP),
                StoredFile(scan_key(slide_id, digest), read.record.to_bytes(), JSON),
            ],
            bag_digests_key(slide_id, digest),
        )
        stored = None if ours else self.store.head(bag_key(slide_id, digest))
        return _ready(scanned, digest, read.record, stored.size_bytes if stored else len(data))


def _ready(scanned: SlideScanned, digest: str, record: ScanRecord, bag_bytes: int) -> BagReady:
    return BagReady(
        slide_id=scanned.slide_id,
        uri=scanned.uri,
        content_id=scanned.content_id,
        bag_key=bag_key(scanned.slide_id, digest),
        scan_key=scan_key(scanned.slide_id, digest),
        bag_digest=digest,
        bag_bytes=bag_bytes,
        tiles=record.tiles,
        mpp=record.mpp,
        case_id=scanned.case_id,
        case_slides=scanned.case_slides,
        turn=scanned.turn,
    )

"""slide.scanned → bag.ready: a slide's bag, thumbnail and scan record in the object store.

Their keys follow from what decides their bytes, all of which is known before the slide is opened. The scan
record is written last: once it is there, the job is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from histgen_lib.access.slide_files import SlideFiles, changed, fingerprint_of, present_files, unchanged
from histgen_lib.bags.bag import SCHEMA_VERSION as BAG_SCHEMA
from histgen_lib.catalogue.registry import keep, take_in
from histgen_lib.catalogue.scan_record import ScanRecord, record_scan
from histgen_lib.catalogue.stored import StoredBag
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.files import json_digest
from histgen_lib.models.tile_encoder.serving import NAME
from histgen_lib.pipeline.job import Done, ModelInUse, Progress, Stages, lacking, silent
from histgen_lib.pipeline.provenance import SOFTWARE
from histgen_lib.pipeline.scan.scanner import Scanner
from histgen_lib.reports.pictures import make_thumbnail
from histgen_lib.slides import open_slide
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class ScanJob:
    """Makes bags; see `histgen_lib.pipeline.job.Job`.

    It keeps the registry of slides: it records a slide that did not come through the gateway, refuses an id
    that belongs to another slide, and lets a slide that was read keep its id.
    """

    scanner: Scanner
    store: ObjectStore
    files: SlideFiles
    takes: ClassVar[tuple[type[SlideScanned], ...]] = (SlideScanned,)

    def find(self, event: Event, scanned: SlideScanned) -> Done[BagReady] | None:
        """See Job. Raises InvalidInputError: "slide-id-invalid", "slide-id-taken"; and as `find_bag`."""
        scanned = take_in(self.store, event)
        ready = self.find_bag(scanned)
        if ready is None:
            return None
        keep(self.store, event, scanned)
        return Done(ready)

    def run(self, event: Event, scanned: SlideScanned, progress: Progress = silent) -> Done[BagReady]:
        """See Job. A slide whose event a person replays may have been repaired: it is taken as found.

        Raises InvalidInputError: "slide-id-invalid", "slide-id-taken"; and as `make_bag`.
        """
        stages = Stages(progress)
        scanned = take_in(self.store, event)
        ready = self.make_bag(scanned, stages, as_found=event.replay > 0)
        keep(self.store, event, replace(scanned, content_id=ready.content_id))
        return Done(ready, stages.measures())

    def lacking(self) -> Sequence[str]:
        """See Job."""
        return lacking(self.scanner.server, NAME, self.store)

    def models(self) -> Sequence[ModelInUse]:
        """See Job."""
        model, server = self.scanner.model, self.scanner.server
        name, digest = model.encoder_name or model.folder.name, self._encoder
        return [ModelInUse(NAME, name, digest[:12], server.engine(NAME))]

    @property
    def _encoder(self) -> str:
        """The digest of the tile encoder's weights, or else of the whole model."""
        return self.scanner.model.encoder_sha256 or self.scanner.model.provenance.sha256

    def find_bag(self, scanned: SlideScanned) -> BagReady | None:
        """Return what `make_bag` would, if the bag is there and sound; opens no slide, only its sidecar.

        Raises InvalidInputError: "slide-sidecar-invalid", "slide-uri", "uri-outside-roots"; and what the
        store raises.
        """
        stored = self._stored(scanned)
        found = stored.find()
        return None if found is None else _ready(scanned, stored, *found)

    def make_bag(
        self, scanned: SlideScanned, stages: Stages | None = None, *, as_found: bool = False
    ) -> BagReady:
        """Read and encode the slide, and store the result; doing it twice gives the same bytes.

        `as_found`: take the file that is there now, as if it had been announced. Otherwise raises
        InvalidInputError("slide-changed") if the file is not, or no longer, what was announced; and what
        opening, cutting and reading slides, the server and the store raise; see `SlideFiles.open` too.
        """
        stages = stages or Stages()
        with ExitStack() as opened:
            with stages("open"):
                file = opened.enter_context(self.files.open(scanned.uri))
                size_bytes = None if as_found else scanned.size_bytes
                parts, states, content_id = present_files(
                    file.path, size_bytes, most_bytes=self.files.most_bytes
                )
                if as_found:
                    scanned = replace(scanned, content_id=content_id)
                elif content_id != scanned.content_id:
                    raise changed(file.path)
                stored = self._stored(scanned)
                opened.enter_context(unchanged(file.path, parts, states))
                slide = opened.enter_context(
                    open_slide(file.path, mpp=scanned.mpp, slide_id=scanned.slide_id, within=file.within)
                )
            scan = self.scanner.scan(slide, stages)
            with stages.timed("render"):
                thumbnail = make_thumbnail(slide)
            record = record_scan(
                slide,
                tiling=self.scanner.model.tiling,
                quality=scan.quality,
                tiles=len(scan.bag),
                content_id=scanned.content_id,
                fingerprint=fingerprint_of(parts),
            )
        if self._stored(scanned).digest != stored.digest:
            raise changed(file.path)  # its sidecar did: the bag would lie under another scale's name
        with stages("store"):
            size_bytes = stored.write(scan.bag, thumbnail, record)
        for metric in ("histgen_tiles_read_total", "histgen_tiles_encoded_total"):
            stages.count(metric, len(scan.bag))
        return _ready(scanned, stored, record, size_bytes)

    def _stored(self, scanned: SlideScanned) -> StoredBag:
        """Name the bag by a digest of what decides its bytes.

        Settings that follow from the rest are left out, so that bags of before they were recorded are found.
        """
        model = self.scanner.model
        stated = model.folder.encoder.get("settings_sha256")
        decides = {
            "software": SOFTWARE,
            "schema": BAG_SCHEMA,
            "slide": scanned.content_id,
            "id": scanned.slide_id,
            "mpp": scanned.mpp,
            "sidecar_mpp": self.files.sidecar_mpp(scanned.uri) if scanned.mpp is None else None,
            "tiling": asdict(model.tiling),
            "encoder": self._encoder,
            **({"encoder_settings": stated} if stated else {}),
        }
        return StoredBag(self.store, scanned.slide_id, json_digest(decides))


def _ready(scanned: SlideScanned, stored: StoredBag, record: ScanRecord, bag_bytes: int) -> BagReady:
    return BagReady(
        slide_id=scanned.slide_id,
        uri=scanned.uri,
        content_id=scanned.content_id,
        bag_key=stored.key,
        scan_key=stored.scan_key,
        bag_digest=stored.digest,
        bag_bytes=bag_bytes,
        tiles=record.tiles,
        mpp=record.mpp,
        case_id=scanned.case_id,
        case_slides=scanned.case_slides,
        turn=scanned.turn,
    )

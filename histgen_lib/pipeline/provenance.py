"""What decides the bytes of a draft: its inputs, their digest, and how the record describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from histgen_lib import __version__
from histgen_lib.bags import Bag
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.files import json_digest, sha256_hex
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.reports.record import (
    SCHEMA_VERSION,
    CaseSlide,
    EncoderProvenance,
    Provenance,
    Quality,
    SlideProvenance,
    Tiling,
)

SOFTWARE = f"histgen {__version__}"


class ReadSlide(Protocol):
    """A slide that was read: an open `Slide`, or the `ScanRecord` of one."""

    @property
    def slide_id(self) -> str:
        """Its id."""

    @property
    def content_id(self) -> str:
        """SHA-256 over its bytes."""

    @property
    def mpp(self) -> float:
        """µm per level-0 px."""

    @property
    def mpp_source(self) -> str:
        """Where that number comes from."""


@dataclass(frozen=True)
class Part:
    """A bag with the record of the slide it came from (`scan` None: only the bag is known).

    `supplied`: the digest of a bag that is not what the model would make of the slide today (an earlier one,
    or one of another tiling); it then counts among the inputs.
    """

    bag: Bag
    scan: ScanRecord | None = None
    supplied: str | None = None

    @property
    def origin(self) -> dict[str, Any]:
        """What of the slide and the bag decides the draft."""
        if self.scan is None:
            return {"bag": self.bag.digest}
        return slide_origin(self.scan, self.supplied)

    @property
    def slide(self) -> SlideProvenance:
        """The slide as it was read."""
        bag, scan = self.bag, self.scan
        return SlideProvenance(
            content_id=scan.content_id if scan else None,
            size_px=bag.known_size,
            mpp=None if math.isnan(bag.slide_mpp) else bag.slide_mpp,
            mpp_source=scan.mpp_source if scan else "bag",
            file_mpp=scan.file_mpp if scan else None,
            scanner=scan.scanner if scan else None,
            tiles=len(bag),
        )

    @property
    def quality(self) -> Quality:
        """What may have spoilt the picture, as far as that was checked."""
        flags = () if self.bag.encoder_sha256 else ("encoder-unstated",)
        if self.scan is None:
            return Quality(flags=flags)
        return self.scan.quality.model_copy(update={"flags": (*flags, *self.scan.quality.flags)})

    @property
    def tiling(self) -> Tiling:
        """How the slide was cut."""
        bag, scan = self.bag, self.scan
        return Tiling(
            tile_px=bag.tile_px or None,
            mpp=None if math.isnan(bag.mpp) else bag.mpp,
            overlap_px=scan.tiling.overlap_px if scan else None,
            min_tissue=scan.tiling.min_tissue if scan else None,
        )

    @property
    def of_case(self) -> CaseSlide:
        """The slide as the report of its case lists it."""
        return CaseSlide(
            slide_id=self.bag.slide_id,
            bag_digest=self.bag.digest,
            slide=self.slide,
            quality=self.quality,
        )


def slide_origin(slide: ReadSlide, supplied: str | None = None) -> dict[str, Any]:
    """Return what of a slide, and of a bag supplied with it (by its digest), decides its draft."""
    origin = {
        "slide": slide.content_id,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "id": slide.slide_id,
    }
    return origin | ({"bag": supplied} if supplied else {})


def case_origin(case_id: str, origins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what decides the draft of a case: its slides, in its order."""
    return {"case": case_id, "slides": [dict(origin) for origin in origins]}


@dataclass(frozen=True)
class Recipe:
    """What all drafts of one model have in common. `beam_size` overrides the model's."""

    model: ReportModel
    beam_size: int | None = None

    def inputs_digest(self, origin: Mapping[str, Any]) -> str:
        """Digest all that decides a draft's bytes; `origin`: of a slide, a case or a bag."""
        return json_digest(
            {
                "software": SOFTWARE,
                "schema": SCHEMA_VERSION,
                "model": self.model.provenance.sha256,
                "decoding": self._decoding,
                "origin": dict(origin),
                **self._lent,
                **self._retrieval,
            }
        )

    @property
    def _lent(self) -> dict[str, str]:
        """What decides a draft besides the model folder: an encoder that is not in it."""
        lent = self.model.lent
        return {} if lent is None else {"encoder": lent.sha256, "encoder_settings": lent.settings}

    @property
    def _retrieval(self) -> dict[str, str]:
        """What decides whether lines are flagged, if the model has a network for it."""
        digest = self.model.folder.retrieval_digest
        return {"retrieval": digest} if digest else {}

    def of_slide(self, part: Part) -> Provenance:
        """Return the provenance of the draft of one slide or bag."""
        return self._provenance(part.origin, part.bag.digest, part.slide, part)

    def of_case(self, case_id: str, parts: Sequence[Part]) -> Provenance:
        """Return the provenance of the draft of a case; what differs between slides is listed per slide."""
        whole = SlideProvenance(
            content_id=None,
            size_px=None,
            mpp=None,
            mpp_source="case",
            tiles=sum(len(part.bag) for part in parts),
        )
        origin = case_origin(case_id, [part.origin for part in parts])
        bag_digest = sha256_hex("".join(part.bag.digest for part in parts).encode())
        return self._provenance(origin, bag_digest, whole, parts[0])

    def _provenance(
        self, origin: Mapping[str, Any], bag_digest: str, slide: SlideProvenance, first: Part
    ) -> Provenance:
        return Provenance(
            software=SOFTWARE,
            inputs_digest=self.inputs_digest(origin),
            bag_digest=bag_digest,
            slide=slide,
            model=self.model.provenance,
            encoder=EncoderProvenance(name=first.bag.encoder_name, sha256=first.bag.encoder_sha256),
            tiling=first.tiling,
            decoding=self._decoding,
        )

    @property
    def _decoding(self) -> dict[str, int | float | str]:
        settings = self.model.folder.decoding
        return asdict(settings if self.beam_size is None else settings.replace(beam_size=self.beam_size))

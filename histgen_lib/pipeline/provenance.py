"""What decides on the bytes of a draft: its inputs, their digest, and how the record tells of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from histgen_lib import __version__
from histgen_lib.bags import Bag
from histgen_lib.catalogue.scan_record import ScanRecord
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.reports.record import (
    SCHEMA_VERSION,
    EncoderProvenance,
    ModelProvenance,
    Provenance,
    Quality,
    SlideProvenance,
    Tiling,
)

SOFTWARE = f"histgen {__version__}"


class ReadSlide(Protocol):
    """A slide as it was read: a `Slide` that is open, or the `ScanRecord` of one that was."""

    @property
    def slide_id(self) -> str:
        """What it is called."""

    @property
    def content_id(self) -> str:
        """SHA-256 over its bytes."""

    @property
    def mpp(self) -> float:
        """µm per level-0 px."""

    @property
    def mpp_source(self) -> str:
        """Who is believed in that."""


@dataclass(frozen=True)
class Part:
    """A bag with what is known of the slide it came from (`scan` None: only the bag itself).

    `given`: a digest of a bag that is not what the model would make of the slide now (an earlier one, or one
    of another tiling); it then counts among the inputs.
    """

    bag: Bag
    scan: ScanRecord | None = None
    given: str | None = None

    @property
    def origin(self) -> dict[str, Any]:
        """What of the slide and the bag decides on the draft."""
        if self.scan is None:
            return {"bag": self.bag.digest}
        return slide_origin(self.scan, self.given)


def slide_origin(slide: ReadSlide, given: str | None = None) -> dict[str, Any]:
    """Collect what of a slide (and of a bag `given` with it, by a digest) decides on its draft."""
    origin = {
        "slide": slide.content_id,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "id": slide.slide_id,
    }
    return origin | ({"bag": given} if given else {})


def case_origin(case_id: str, origins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect what decides on the draft of a case: its slides, in its order."""
    return {"case": case_id, "slides": [dict(origin) for origin in origins]}


def inputs_digest(model: ReportModel, beam_size: int | None, origin: Mapping[str, Any]) -> str:
    """Digest all that decides on a draft's bytes; `origin`: of a slide, a case or a bag."""
    return sha256_hex(
        canonical_json(
            {
                "software": SOFTWARE,
                "schema": SCHEMA_VERSION,
                "model": model.folder.digest,
                "decoding": _decoding(model, beam_size),
                "origin": dict(origin),
            }
        )
    )


def provenance_of_slide(part: Part, model: ReportModel, beam_size: int | None) -> Provenance:
    """Say what decided on the draft of one slide or bag."""
    return Provenance(
        inputs_digest=inputs_digest(model, beam_size, part.origin),
        bag_digest=part.bag.digest,
        slide=slide_provenance(part),
        tiling=_tiling(part),
        **_shared(part, model, beam_size),
    )


def provenance_of_case(
    case_id: str, parts: Sequence[Part], model: ReportModel, beam_size: int | None
) -> Provenance:
    """Say what decided on the draft of a case; what differs between its slides stands beside each of them."""
    return Provenance(
        inputs_digest=inputs_digest(model, beam_size, case_origin(case_id, [p.origin for p in parts])),
        bag_digest=sha256_hex("".join(part.bag.digest for part in parts).encode()),
        slide=SlideProvenance(
            content_id=None,
            size_px=None,
            mpp=None,
            mpp_source="case",
            tiles=sum(len(part.bag) for part in parts),
        ),
        tiling=_tiling(parts[0]),
        **_shared(parts[0], model, beam_size),
    )


def slide_provenance(part: Part) -> SlideProvenance:
    """Tell of the slide as it was read."""
    bag, scan = part.bag, part.scan
    return SlideProvenance(
        content_id=scan.content_id if scan else None,
        size_px=bag.known_size,
        mpp=None if math.isnan(bag.slide_mpp) else bag.slide_mpp,
        mpp_source=scan.mpp_source if scan else "bag",
        file_mpp=scan.file_mpp if scan else None,
        scanner=scan.scanner if scan else None,
        tiles=len(bag),
    )


def quality_of_part(part: Part) -> Quality:
    """Tell what may have spoilt the picture, as far as that was looked at."""
    flags = () if part.bag.encoder_sha256 else ("encoder-unstated",)
    if part.scan is None:
        return Quality(flags=flags)
    quality = part.scan.quality
    return quality.model_copy(update={"flags": (*flags, *quality.flags)})


def _shared(part: Part, model: ReportModel, beam_size: int | None) -> dict[str, Any]:
    """Collect what all slides of a draft have in common."""
    folder = model.folder
    return {
        "software": SOFTWARE,
        "model": ModelProvenance(name=folder.name, sha256=folder.digest, synthetic=folder.synthetic),
        "encoder": EncoderProvenance(name=part.bag.encoder_name, sha256=part.bag.encoder_sha256),
        "decoding": _decoding(model, beam_size),
    }


def _tiling(part: Part) -> Tiling:
    bag, scan = part.bag, part.scan
    return Tiling(
        tile_px=bag.tile_px or None,
        mpp=None if math.isnan(bag.mpp) else bag.mpp,
        overlap_px=scan.tiling.overlap_px if scan else None,
        min_tissue=scan.tiling.min_tissue if scan else None,
    )


def _decoding(model: ReportModel, beam_size: int | None) -> dict[str, int | float | str]:
    settings = model.folder.decoding
    return asdict(settings if beam_size is None else settings.replace(beam_size=beam_size))

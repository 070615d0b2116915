"""What a draft needs to know of a slide besides its bag, so that the slide need not be opened for it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json
from histgen_lib.reports.record import Quality, Sha256, Tiling
from histgen_lib.slides import QualityReport, Slide, TilingSettings


class ScanRecord(BaseModel):
    """One slide as it was read. Stored beside its bag as canonical JSON: equal records, equal bytes.

    `fingerprint` tells cheaply whether the slide's files are still these (`histgen_lib.access.slide_files`);
    None where the slide stays open until its draft is made. `file_mpp`: as of `Slide`. No free text of the
    slide's file is in here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal["1"] = "1"
    slide_id: str
    content_id: Sha256
    fingerprint: Sha256 | None = None
    size_px: tuple[int, int]
    mpp: float = Field(gt=0)
    mpp_source: str
    file_mpp: float | None = None
    scanner: str | None
    tiles: int = Field(ge=1)
    tiling: Tiling
    quality: Quality

    def to_bytes(self) -> bytes:
        """Return canonical JSON, without `file_mpp` where there is none."""
        silent = {"file_mpp"} if self.file_mpp is None else None
        return canonical_json(self.model_dump(mode="json", exclude=silent))

    @classmethod
    def from_bytes(cls, data: bytes) -> ScanRecord:
        """Read what `to_bytes` returned. Raises InvalidInputError("scan-record-unreadable")."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise InvalidInputError(
                "scan-record-unreadable",
                "The scan record beside a bag is not one of schema version 1.",
                hint="Run `histgen replay`: the tiler makes a damaged one again. If it is of another "
                "version, delete it and the bag beside it first.",
            ) from None


def record_scan(
    slide: Slide,
    *,
    tiling: TilingSettings,
    quality: QualityReport,
    tiles: int,
    content_id: str | None = None,
    fingerprint: str | None = None,
) -> ScanRecord:
    """Record a slide that was read; without a `content_id` its whole file is read to find it."""
    return ScanRecord(
        slide_id=slide.slide_id,
        content_id=content_id or slide.content_id,
        fingerprint=fingerprint,
        size_px=slide.size,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        file_mpp=slide.file_mpp,
        scanner=slide.maker,
        tiles=tiles,
        tiling=Tiling(**asdict(tiling)),
        quality=quality_of(quality),
    )


def quality_of(report: QualityReport) -> Quality:
    """Keep the flags, and the measures that are numbers."""
    measures = {
        name: round(float(value), 4)
        for name, value in sorted(report.to_dict().items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return Quality(
        flags=report.flags, measures=measures, checked=report.checked, not_checked=report.not_checked
    )

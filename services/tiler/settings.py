"""What the tiler can be told beside what all services can."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from histgen_lib.slides.limits import DEFAULT_TILES
from services.settings import EmptyIsNone, ServiceSettings

MOST = 16
"""Batches of 6 MB held at once, at most."""
BAG_TILES = 1 << 20
"""No bag with more is read (`bag-too-large`)."""


class TilerSettings(ServiceSettings):
    """The settings of `python -m services.tiler`."""

    section: ClassVar[str] = "tiler"

    in_flight: Annotated[int | None, EmptyIsNone] = Field(
        None,
        ge=1,
        le=MOST,
        description="batches encoded at a time; if not stated, one a core, or 3 with Triton",
    )
    slide_tiles: int = Field(
        DEFAULT_TILES, ge=1, le=BAG_TILES, description="tiles of tissue that a slide may have"
    )
    slide_open_s: float = Field(
        900.0, gt=0, description="seconds that fetching and opening a slide may take, up to its first tiles"
    )

    @property
    def opening_s(self) -> float:
        """See ServiceSettings."""
        return self.slide_open_s

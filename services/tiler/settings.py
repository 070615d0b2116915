"""What the tiler can be told beside what all services can."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.settings import EmptyIsNone, ServiceSettings

MOST = 16
"""Batches of 6 MB held at once, at most."""


class TilerSettings(ServiceSettings):
    """The settings of `python -m services.tiler`."""

    section: ClassVar[str] = "tiler"

    in_flight: Annotated[int | None, EmptyIsNone] = Field(
        None,
        ge=1,
        le=MOST,
        description="batches encoded at a time; if not stated, one a core, or 3 with Triton",
    )

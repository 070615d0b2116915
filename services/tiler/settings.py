"""What the tiler can be told beside what all services can."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.settings import EmptyIsNone, ServiceSettings


class TilerSettings(ServiceSettings):
    """The settings of `python -m services.tiler`."""

    section: ClassVar[str] = "tiler"

    in_flight: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=16, description="batches of tiles encoded at a time; if not stated 1, or 3 with Triton"
    )

"""What the reporter can be told beside what all services can."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from services.settings import EmptyIsNone, ServiceSettings


class ReporterSettings(ServiceSettings):
    """The settings of `python -m services.reporter`."""

    section: ClassVar[str] = "reporter"

    beam_size: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=32, description="beams of the search; the model's if not stated"
    )

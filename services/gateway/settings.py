"""What the gateway can be told beside what all services can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from services.settings import ServiceSettings


def _listed(value: Any) -> Any:
    """Read "a,b", or a JSON list for names with commas in them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


class GatewaySettings(ServiceSettings):
    """The settings of `python -m services.gateway`."""

    section: ClassVar[str] = "gateway"

    watch: Path | None = Field(None, description="folder in which new slides appear; none if not stated")
    settle_s: float = Field(5.0, gt=0, le=86400, description="seconds a slide's files must stay unchanged")
    look_s: float = Field(2.0, gt=0, le=3600, description="seconds between two looks at the watched folder")
    roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="folders and s3:// buckets that slides may lie in; the watched folder always is one"
    )
    notifications: str = Field(
        "s3.notifications",
        pattern=r"[A-Za-z0-9._-]{0,249}",
        description='topic that object stores publish bucket notifications to; "" for none',
    )
    index: Path | None = Field(
        None, description="file in which the gateway keeps where every slide stands; none if not stated"
    )
    hash_threads: int = Field(4, ge=1, le=64, description="slides named by HTTP that are read at a time")

    @field_validator("watch", "index", mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return None if value == "" else value

"""The gateway's own settings and error codes, beside those of all services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from histgen_lib.catalogue.pruning import read_retention
from histgen_lib.errors import InvalidInputError
from services.codes import OBJECT, OUTAGE, Codes
from services.settings import EmptyIsNone, ServiceSettings, StoreUrl


def _retention(value: str) -> str:
    try:
        read_retention(value)
    except InvalidInputError as error:
        raise ValueError(f"cannot be read: {error.hint.removesuffix('.')}") from None
    return value


class GatewaySettings(ServiceSettings):
    """The settings of `python -m services.gateway`."""

    settle_s: float = Field(
        5.0, gt=0, le=86400, description="seconds that a slide's files must stay unchanged"
    )
    look_s: float = Field(2.0, gt=0, le=3600, description="seconds between two scans of the watched folder")
    notifications: str = Field(
        "s3.notifications",
        pattern=r"[A-Za-z0-9._-]{0,249}",
        description='topic that object stores publish bucket notifications to; "" for none',
    )
    index: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="file in which the gateway keeps where every slide stands; none if not set"
    )
    case_index: Annotated[StoreUrl | None, EmptyIsNone] = Field(
        None, description="the stack's case index, if it has one: what waits for its librarian is shown"
    )
    retention: Annotated[str, AfterValidator(_retention)] = Field(
        "",
        description='days after which what nobody needs is pruned: "90", or by kind, "seen=90,reports=365"; '
        "everything is kept if not set",
    )
    open_s: float = Field(
        20.0, gt=0, le=3600, description="seconds that opening or reading a slide's file may stand still"
    )
    hash_threads: int = Field(4, ge=1, le=64, description="slides submitted by HTTP that are read at a time")


REFUSALS = (
    "case-invalid",
    "slide-changed",
    "slide-empty",
    "slide-id-invalid",
    "slide-id-taken",
    "slide-in-parts",
    "slide-incomplete",
    "slide-is-folder",
    "slide-missing",
    "slide-mpp-implausible",
    "slide-open-timeout",
    "slide-too-large",
    "slide-unreadable",
    "uri-invalid",
    "uri-outside-roots",
    *OBJECT.letters,
)
"""Of slides that it does not take."""

GATEWAY = OUTAGE + Codes(
    letters=(
        "notification-failed",
        "notification-unconfirmed",
        "notification-unreadable",
        "record-damaged",
        *REFUSALS,
    ),
    retries=("gateway-busy", "watch-unavailable"),
)

"""The search service's own settings and error codes, beside those of all services."""

from __future__ import annotations

from pydantic import Field

from services.codes import INFERENCE, OUTAGE, Codes
from services.settings import ServiceSettings, StoreUrl


class SearchSettings(ServiceSettings):
    """The settings of `python -m services.search`."""

    case_index: StoreUrl = Field(
        description='where the case index is, which has a place of its own: "file:/folder" or "s3://bucket/prefix"'
    )
    search_threads: int = Field(4, ge=1, le=256, description="searches that run at a time")
    search_waiting: int = Field(64, ge=0, le=10_000, description="further searches that may wait")
    search_s: float = Field(30.0, gt=0, le=3600, description="seconds after which a search is given up")
    search_look_s: float = Field(
        1.0, gt=0, le=60, description="seconds between two looks for a newer state of the case index"
    )
    search_withdrawals_s: float = Field(
        15.0, gt=0, le=30, description="seconds between two looks at what was withdrawn"
    )
    deadline_s: float = Field(60.0, gt=0, description="seconds that encoding what is asked about may take")


SEARCH = OUTAGE + Codes(
    retries=(
        "case-index-loading",
        "case-index-unavailable",
        "search-busy",
        "search-slow",
        "withdrawals-unknown",
        *INFERENCE.retries,
    )
)
"""Of what is waited for, by the service itself or by whoever asked."""

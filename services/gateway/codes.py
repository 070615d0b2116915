"""The codes that the gateway is known to write; see `services.codes`."""

from __future__ import annotations

from services.codes import OBJECT, OUTAGE, Codes

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

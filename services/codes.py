"""The codes that each service is known to write: its counters show them at 0 from the start.

A counter that first appears with its first event looks to Prometheus as if nothing had increased. A code that
is missing here is counted all the same; a test holds the lists to what the source can raise.
"""

from __future__ import annotations

_EVENT = (
    "event-unreadable",
    "event-type",
    "event-version",
    "event-misplaced",
    "event-too-large",
    "record-damaged",
)
_JOB = ("job-crashed", "job-deadline", "job-failed", "job-memory", "worker-died")
_STORED = ("object-key", "object-missing", "object-uri")
_SLIDE = (
    "slide-changed",
    "slide-damaged",
    "slide-empty",
    "slide-format-unknown",
    "slide-header-too-large",
    "slide-incomplete",
    "slide-is-folder",
    "slide-missing",
    "slide-mpp-implausible",
    "slide-mpp-unknown",
    "slide-no-pyramid",
    "slide-not-square",
    "slide-not-supported",
    "slide-read-failed",
    "slide-sidecar-invalid",
    "slide-too-large",
    "slide-too-small",
    "slide-unreadable",
    "slide-uri",
    "uri-outside-roots",
)
_MODEL = (
    "inference-crashes",
    "inference-failed",
    "inference-memory",
    "inference-refused",
    "tensor-missing",
    "tensor-shape",
    "tensor-unknown",
)
_BAG = (
    "bag-empty",
    "bag-invalid",
    "bag-not-finite",
    "bag-other-encoder",
    "bag-other-slide",
    "bag-schema-newer",
    "bag-shape",
    "bag-too-large",
    "bag-unreadable",
)
_AWAY = ("bus-record", "bus-unavailable", "storage-unavailable")

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
    *_STORED,
)
"""Of slides that the gateway does not take."""

LETTERS: dict[str, tuple[str, ...]] = {
    "gateway": (
        "notification-failed",
        "notification-unconfirmed",
        "notification-unreadable",
        "record-damaged",
        *REFUSALS,
    ),
    "tiler": (
        *_EVENT,
        *_JOB,
        *_STORED,
        *_SLIDE,
        *_MODEL,
        "slide-id-invalid",
        "slide-id-taken",
        "slide-no-tissue",
        "slide-open-slow",
        "slide-too-coarse",
        "slide-too-many-tiles",
    ),
    "reporter": (
        *_EVENT,
        *_JOB,
        *_STORED,
        *_SLIDE,
        *_MODEL,
        *_BAG,
        "case-slide-elsewhere",
        "case-slide-unlisted",
        "case-unreadable",
        "names-not-told-apart",
        "scan-record-unreadable",
        "slide-id-invalid",
    ),
}
"""Of dead letters, by service."""

_WORKERS = (
    *_AWAY,
    *_JOB,
    "disk-full",
    "inference-deadline",
    "inference-unavailable",
    "job-frozen",
    "job-process",
    "scratch-full",
    "slide-away",
    "slide-open-slow",
)
RETRIES: dict[str, tuple[str, ...]] = {
    "gateway": (*_AWAY, "gateway-busy", "watch-unavailable"),
    "tiler": _WORKERS,
    "reporter": _WORKERS,
}
"""Of what is waited for and tried again, by service."""

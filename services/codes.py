"""Error codes that services are known to write, in groups: each service adds up its own list from them.

Counters of these codes show 0 from the start: to Prometheus, a counter that appears with its first event has
not increased. A code that is missing from a list is counted all the same; a test compares the lists with what
the source can raise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Codes:
    """`letters`: codes of dead letters. `retries`: codes of errors that are waited out and tried again.

    `stages`: the names of the stages of its jobs, which are measured and show 0 from the start as well.
    """

    letters: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()

    def __add__(self, other: Codes) -> Codes:
        return Codes(self.letters + other.letters, self.retries + other.retries, self.stages + other.stages)


OUTAGE = Codes(retries=("bus-record", "bus-unavailable", "storage-unavailable"))
EVENT = Codes(
    letters=(
        "event-unreadable",
        "event-type",
        "event-version",
        "event-misplaced",
        "event-too-large",
        "record-damaged",
    )
)
_JOB = ("job-crashed", "job-deadline", "job-failed", "job-memory", "worker-died")
JOB = Codes(letters=_JOB, retries=(*_JOB, "disk-full", "job-frozen", "job-process"))
WORKER = OUTAGE + EVENT + JOB
"""Of any worker, whatever its job is."""

OBJECT = Codes(letters=("object-key", "object-missing", "object-uri"))
SLIDE = Codes(
    letters=(
        "slide-changed",
        "slide-damaged",
        "slide-empty",
        "slide-format-unknown",
        "slide-header-too-large",
        "slide-id-invalid",
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
    ),
    retries=("scratch-full", "slide-away", "slide-open-slow"),
)
INFERENCE = Codes(
    letters=(
        "inference-crashes",
        "inference-failed",
        "inference-memory",
        "inference-refused",
        "tensor-missing",
        "tensor-shape",
        "tensor-unknown",
    ),
    retries=("inference-deadline", "inference-unavailable"),
)
BAG = Codes(
    letters=(
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
)

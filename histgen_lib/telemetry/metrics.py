"""Every metric, with its help text: base units, few labels, never a slide's or an event's id as a label.

docs/metrics.md lists the same; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from histgen_lib.files import write_atomic

REGISTRY = CollectorRegistry()
"""Only ours: a library that uses the default registry cannot interfere."""
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

STAGE = "stage:"
"""The prefix of the keys of `add_measures` that hold the seconds of a stage."""

_MINUTES = (
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    45,
    60,
    90,
    120,
    180,
    300,
    600,
    1200,
    3600,
    14400,
    86400,
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)

SCAN_TO_DRAFT = Histogram(
    "histgen_scan_to_draft_seconds",
    "Seconds from the slide.scanned event to the commit of the job that published report.drafted.",
    ["worker"],
    buckets=_MINUTES,
    registry=REGISTRY,
)
OLDEST_UNFINISHED = Gauge(
    "histgen_oldest_unfinished_seconds",
    "Seconds since the first scan of the slides in flight or set aside here; 0 when there is none.",
    ["worker"],
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("histgen_in_flight", "Records that are being processed.", ["worker"], registry=REGISTRY)
SET_ASIDE = Gauge(
    "histgen_set_aside",
    "Records that failed for a temporary reason and wait for a retry while others pass them.",
    ["worker"],
    registry=REGISTRY,
)
SET_ASIDE_OLDEST = Gauge(
    "histgen_set_aside_oldest_seconds",
    "Seconds since the first failure of the record that has been set aside longest; 0 when there is none.",
    ["worker"],
    registry=REGISTRY,
)
JOB_MEMORY = Gauge(
    "histgen_job_memory_bytes",
    "Memory held by the process that runs the jobs, which HISTGEN_MEMORY_BYTES limits.",
    ["worker"],
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "histgen_stage_seconds",
    "Seconds that a finished job spent in a stage.",
    ["worker", "stage"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
OVERHEAD = Histogram(
    "histgen_worker_overhead_seconds",
    "Seconds between a record's arrival and its commit that were not spent in the job.",
    ["worker"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
TILES_READ = Counter("histgen_tiles_read_total", "Tiles read from slides.", ["worker"], registry=REGISTRY)
TILES_ENCODED = Counter(
    "histgen_tiles_encoded_total", "Tiles turned into features.", ["worker"], registry=REGISTRY
)
DEAD_LETTERS = Counter(
    "histgen_dead_letters_total",
    "Events dead-lettered, by the code of the reason.",
    ["worker", "code"],
    registry=REGISTRY,
)
ABSTENTIONS = Counter(
    "histgen_abstentions_total",
    "Drafts that the model does not stand by.",
    ["worker"],
    registry=REGISTRY,
)
BUS_LAG = Gauge(
    "histgen_bus_lag",
    "Uncommitted records of the partitions held here: in flight, set aside, finished behind those, and new.",
    ["worker"],
    registry=REGISTRY,
)
JOBS = Counter(
    "histgen_jobs_total",
    "Records processed, by outcome: done, found (the objects were there already), dead-letter, "
    "lost (finished, but another member had the partition by then), handed-back (stopped during the job).",
    ["worker", "outcome"],
    registry=REGISTRY,
)
RETRIES = Counter(
    "histgen_retries_total",
    "Retries, by the code of what went wrong.",
    ["worker", "code"],
    registry=REGISTRY,
)
SLIDES_SEEN = Counter(
    "histgen_slides_seen_total",
    "Slides that reached the gateway, by how they did.",
    ["via"],
    registry=REGISTRY,
)
SLIDES_DUPLICATE = Counter(
    "histgen_slides_duplicate_total", "Slides that the gateway had already announced.", registry=REGISTRY
)
SLIDES_REFUSED = Counter(
    "histgen_slides_refused_total",
    "Slides that the gateway refused, by the code of the reason.",
    ["code"],
    registry=REGISTRY,
)
RESTARTS = Counter(
    "histgen_restarts_total",
    "Restarts of processes by histgen up, by part and reason: ended, frozen.",
    ["part", "why"],
    registry=REGISTRY,
)
HTTP_REQUESTS = Counter(
    "histgen_http_requests_total",
    "HTTP requests answered, by page (other: none of the service's) and status.",
    ["worker", "route", "status"],
    registry=REGISTRY,
)
HTTP_LIMITED = Counter(
    "histgen_http_limited_total",
    "HTTP requests refused as too many: requests of a caller, failures (wrong tokens) of an address.",
    ["worker", "why"],
    registry=REGISTRY,
)
CERTIFICATE_EXPIRY = Gauge(
    "histgen_certificate_expiry_timestamp_seconds",
    "When a certificate in use expires, in seconds since 1970.",
    ["certificate"],
    registry=REGISTRY,
)

ALL: tuple[Counter | Gauge | Histogram, ...] = (
    SCAN_TO_DRAFT,
    OLDEST_UNFINISHED,
    IN_FLIGHT,
    SET_ASIDE,
    SET_ASIDE_OLDEST,
    JOB_MEMORY,
    STAGE_SECONDS,
    OVERHEAD,
    TILES_READ,
    TILES_ENCODED,
    DEAD_LETTERS,
    ABSTENTIONS,
    BUS_LAG,
    JOBS,
    RETRIES,
    SLIDES_SEEN,
    SLIDES_DUPLICATE,
    SLIDES_REFUSED,
    RESTARTS,
    HTTP_REQUESTS,
    HTTP_LIMITED,
    CERTIFICATE_EXPIRY,
)

VERIFY_REGISTRY = CollectorRegistry()
"""`histgen verify` ends too soon to be scraped, so it writes these to a file for node-exporter."""

VERIFY_FINISHED = Gauge(
    "histgen_verify_finished_timestamp_seconds",
    "When the last verification finished, in seconds since 1970.",
    registry=VERIFY_REGISTRY,
)
VERIFY_DURATION = Gauge(
    "histgen_verify_duration_seconds",
    "Seconds it took, over all runs that it needed.",
    registry=VERIFY_REGISTRY,
)
VERIFY_OBJECTS = Gauge("histgen_verify_objects", "Objects it checked.", registry=VERIFY_REGISTRY)
VERIFY_BYTES = Gauge(
    "histgen_verify_bytes", "Total size of these objects in bytes.", registry=VERIFY_REGISTRY
)
VERIFY_UNDIGESTED = Gauge(
    "histgen_verify_undigested_objects",
    "Objects without a stored digest, written by an earlier version.",
    registry=VERIFY_REGISTRY,
)
VERIFY_DAMAGED = Gauge(
    "histgen_verify_damaged_objects",
    "Objects that were damaged or missing, by kind.",
    ["kind"],
    registry=VERIFY_REGISTRY,
)

VERIFICATION: tuple[Gauge, ...] = (
    VERIFY_FINISHED,
    VERIFY_DURATION,
    VERIFY_OBJECTS,
    VERIFY_BYTES,
    VERIFY_UNDIGESTED,
    VERIFY_DAMAGED,
)

OUTCOMES = ("done", "found", "dead-letter", "lost", "handed-back")

_MEASURES = {
    "histgen_tiles_read_total": TILES_READ,
    "histgen_tiles_encoded_total": TILES_ENCODED,
    "histgen_abstentions_total": ABSTENTIONS,
}
"""The counters that a job may add to."""


def add_measures(measures: Mapping[str, float], *, worker: str) -> None:
    """Add what a job measured: seconds under "stage:<name>", counts under a counter's name.

    Other keys, and amounts that are negative or not numbers, are ignored: a mistake there must not stop the
    stream.
    """
    for name, amount in measures.items():
        if not amount >= 0:
            continue
        if name.startswith(STAGE):
            STAGE_SECONDS.labels(worker, name.removeprefix(STAGE)).observe(amount)
        elif name in _MEASURES:
            _MEASURES[name].labels(worker).inc(amount)


def show_worker(worker: str, *, letters: Iterable[str] = (), retries: Iterable[str] = ()) -> None:
    """Start a worker's series at 0, so that a first event shows as an increase.

    `letters`, `retries`: the codes that it is known to use; others start with their first event.
    """
    for metric in ALL:
        if metric._labelnames == ("worker",):
            metric.labels(worker)
    for outcome in OUTCOMES:
        JOBS.labels(worker, outcome)
    for code in letters:
        DEAD_LETTERS.labels(worker, code)
    for code in retries:
        RETRIES.labels(worker, code)


def show_gateway(vias: Iterable[str], refusals: Iterable[str]) -> None:
    """Start the gateway's own series at 0: the ways slides reach it, the codes of those that it refuses."""
    for via in vias:
        SLIDES_SEEN.labels(via)
    for code in refusals:
        SLIDES_REFUSED.labels(code)


def show_http(worker: str, routes: Iterable[str], statuses: Iterable[int], whys: Iterable[str]) -> None:
    """Start the series of a service's HTTP server at 0."""
    for status in statuses:
        for route in routes:
            HTTP_REQUESTS.labels(worker, route, str(status))
    for why in whys:
        HTTP_LIMITED.labels(worker, why)


def show_part(part: str) -> None:
    """Start the series of a part of the local stack at 0."""
    for why in ("ended", "frozen"):
        RESTARTS.labels(part, why)


def exposition() -> tuple[bytes, str]:
    """Return all metrics in Prometheus' text format, and its media type."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # an extra series for each, which nobody reads
    return generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4


def write_verification(
    path: Path,
    *,
    finished_at: float,
    seconds: float,
    objects: int,
    size_bytes: int,
    undigested: int,
    damaged: Mapping[str, int],
    kinds: Iterable[str],
) -> None:
    """Write these metrics to a file, all or nothing; every kind is listed, also at 0. Raises OSError."""
    for metric, value in (
        (VERIFY_FINISHED, finished_at),
        (VERIFY_DURATION, seconds),
        (VERIFY_OBJECTS, objects),
        (VERIFY_BYTES, size_bytes),
        (VERIFY_UNDIGESTED, undigested),
    ):
        metric.set(value)
    for kind in kinds:
        VERIFY_DAMAGED.labels(kind).set(damaged.get(kind, 0))
    write_atomic(path, generate_latest(VERIFY_REGISTRY))

"""Every metric, with its help text: base units, few labels, never a slide's or an event's id as a label.

docs/metrics.md lists the same; a test compares the two.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from histgen_lib import __version__
from histgen_lib.telemetry.build import revision
from histgen_lib.telemetry.case_metrics import (
    CASE_INDEX_BEHIND,
    CASE_INDEX_BYTES,
    CASE_INDEX_HOLDS,
    CASE_INDEX_VERSION,
    CASES_SHELVED,
    CASES_WITHDRAWN,
    SEARCH_HITS,
    SEARCH_SECONDS,
    SEARCHES,
    show_case_index,
    show_search,
)
from histgen_lib.telemetry.registry import REGISTRY, SECONDS

__all__ = [
    "CASES_SHELVED",
    "CASES_WITHDRAWN",
    "CASE_INDEX_BEHIND",
    "CASE_INDEX_BYTES",
    "CASE_INDEX_HOLDS",
    "CASE_INDEX_VERSION",
    "REGISTRY",
    "SEARCHES",
    "SEARCH_HITS",
    "SEARCH_SECONDS",
    "show_case_index",
    "show_search",
]
"""What others get from here although it is defined elsewhere."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

STAGE = "stage:"
"""The prefix of the keys of `add_measures` that hold the seconds of a stage."""

_MINUTES = (
    *(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1200, 1800, 3600),
    *(14400, 86400),
)
_DISTANCES = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)

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
    buckets=SECONDS,
    registry=REGISTRY,
)
OVERHEAD = Histogram(
    "histgen_worker_overhead_seconds",
    "Seconds between a record's arrival and its commit that were not spent in the job.",
    ["worker"],
    buckets=SECONDS,
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
OUT_OF_DISTRIBUTION = Counter(
    "histgen_out_of_distribution_total",
    "Drafts of slides that are unlike those on which the model was trained; each counts as abstention, too.",
    ["worker"],
    registry=REGISTRY,
)
DOMAIN_DISTANCE = Histogram(
    "histgen_domain_distance",
    "How unlike the training slides a drafted slide is: 0 is typical, beyond 1 out of distribution.",
    ["worker"],
    buckets=_DISTANCES,
    registry=REGISTRY,
)
UNSUPPORTED = Counter(
    "histgen_unsupported_sentences_total",
    "Lines of drafts that no region of the slide supports, by the measured check of the retrieval network.",
    ["worker"],
    registry=REGISTRY,
)
SIMILAR_UNANSWERED = Counter(
    "histgen_similar_unanswered_total",
    "Drafts without similar cases as the case index was away, slow, or of another retrieval network.",
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
BUILD_INFO = Gauge(
    "histgen_build_info",
    "Always 1; the labels say which version, of which commit, on which Python.",
    ["version", "revision", "python"],
    registry=REGISTRY,
)
MODEL_INFO = Gauge(
    "histgen_model_info",
    "Always 1; a network that a worker uses, of which model or encoder, by its digest, and what computes it.",
    ["worker", "network", "name", "digest", "engine"],
    registry=REGISTRY,
)
DEPENDENCY_UP = Gauge(
    "histgen_dependency_up",
    "1 while what a service needs is available, 0 while it is not; /readyz says why.",
    ["worker", "dependency"],
    registry=REGISTRY,
)
CANARY_UP = Gauge(
    "histgen_inference_canary_up",
    "1 while a model on Triton answers small requests or is busy, 0 while it is dead, away or hung.",
    ["model"],
    registry=REGISTRY,
)
DISK_FREE = Gauge(
    "histgen_disk_free_bytes",
    "Bytes that this account can still write; NaN while the disk does not answer.",
    ["volume"],
    registry=REGISTRY,
)
DISK_SIZE = Gauge(
    "histgen_disk_size_bytes",
    "Size of the file system that a volume is on; NaN while it does not answer.",
    ["volume"],
    registry=REGISTRY,
)
BACKLOG_RECORDS = Gauge(
    "histgen_backlog_records",
    "Records that the broker has for a worker and that none has finished, as the gateway sees it.",
    ["worker"],
    registry=REGISTRY,
)
BACKLOG_OLDEST = Gauge(
    "histgen_backlog_oldest_seconds",
    "Seconds since the oldest of these was published; 0 when there is none.",
    ["worker"],
    registry=REGISTRY,
)
BACKLOG_PARTITION = Gauge(
    "histgen_backlog_partition_records",
    "The same records, by partition; of a worker with several topics, those of one number together.",
    ["worker", "partition"],
    registry=REGISTRY,
)
SLIDES = Gauge(
    "histgen_slides",
    "Slides by where they stand: scanned, bagged, drafted, dead-letter; by the gateway's index, once whole.",
    ["state"],
    registry=REGISTRY,
)
SLIDES_OLDEST = Gauge(
    "histgen_slides_unfinished_oldest_seconds",
    "Seconds since the first scan of the slides without draft and dead letter, except those that only wait "
    "for others of their case; 0 when there is none.",
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

ALL: tuple[Counter | Gauge | Histogram, ...] = tuple(
    one for one in tuple(globals().values()) if isinstance(one, Counter | Gauge | Histogram)
)
_SEEN_BY_GATEWAY = (BACKLOG_RECORDS, BACKLOG_OLDEST)
"""What the gateway says of workers."""

OUTCOMES = ("done", "found", "dead-letter", "lost", "handed-back")

_MEASURES = {
    "histgen_tiles_read_total": TILES_READ,
    "histgen_tiles_encoded_total": TILES_ENCODED,
    "histgen_abstentions_total": ABSTENTIONS,
    "histgen_unsupported_sentences_total": UNSUPPORTED,
    "histgen_similar_unanswered_total": SIMILAR_UNANSWERED,
}
"""The counters that a job may add to."""
_OBSERVED = {"histgen_domain_distance": DOMAIN_DISTANCE}
"""The histograms that a job may give one value to."""

SLIDES_OLDEST.set(math.nan)  # of a process that keeps no index


def add_measures(measures: Mapping[str, float], *, worker: str) -> None:
    """Add what a job measured: seconds under "stage:<name>", else under the name of a counter or histogram.

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
        elif name in _OBSERVED:
            _OBSERVED[name].labels(worker).observe(amount)


def show_worker(
    worker: str, *, letters: Iterable[str] = (), retries: Iterable[str] = (), stages: Iterable[str] = ()
) -> None:
    """Start a worker's series at 0, so that a first event shows as an increase.

    `letters`, `retries`, `stages`: the codes and stages that it is known to use; others start when they are
    first seen.
    """
    for metric in ALL:
        if metric._labelnames == ("worker",) and metric not in _SEEN_BY_GATEWAY:
            metric.labels(worker)
    for outcome in OUTCOMES:
        JOBS.labels(worker, outcome)
    for code in letters:
        DEAD_LETTERS.labels(worker, code)
    for code in retries:
        RETRIES.labels(worker, code)
    for stage in stages:
        STAGE_SECONDS.labels(worker, stage)


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


def show_models(worker: str, models: Collection[Sequence[str]]) -> None:
    """Show the networks that a worker uses now, and no others: network, name, digest and engine of each."""
    labels = {(worker, *model) for model in models}
    for old in {key for key in MODEL_INFO._metrics if key[0] == worker} - labels:
        MODEL_INFO.remove(*old)
    for new in labels:
        MODEL_INFO.labels(*new).set(1)


def show_backlog(worker: str, records: Mapping[int, int], oldest_s: float) -> None:
    """Show how many records wait for a worker, by partition, and how long the oldest of them has waited."""
    BACKLOG_RECORDS.labels(worker).set(sum(records.values()))
    BACKLOG_OLDEST.labels(worker).set(oldest_s)
    gone = {key for key in BACKLOG_PARTITION._metrics if key[0] == worker and int(key[1]) not in records}
    for key in gone:
        BACKLOG_PARTITION.remove(*key)
    for partition, count in records.items():
        BACKLOG_PARTITION.labels(worker, str(partition)).set(count)


def hide_backlog() -> None:
    """Show nothing of what waits: an old number would be taken for today's."""
    for metric in (BACKLOG_RECORDS, BACKLOG_OLDEST, BACKLOG_PARTITION):
        metric.clear()


@cache
def _show_build() -> None:
    BUILD_INFO.labels(__version__, revision(), platform.python_version()).set(1)


def exposition() -> tuple[bytes, str]:
    """Return all metrics in Prometheus' text format, and its media type."""
    _show_build()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # an extra series for each, which nobody reads
    return generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4

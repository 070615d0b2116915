"""The metrics of the case index and of searches in it; `metrics` has them, too."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from histgen_lib.telemetry.registry import REGISTRY, SECONDS

SEARCHES = Counter(
    "histgen_searches_total",
    "Searches for cases, by task (what is asked about, and what is to be found) and outcome: found, none, "
    "refused (the question cannot be answered), unavailable (the index, the model or the store), failed.",
    ["task", "outcome"],
    registry=REGISTRY,
)
SEARCH_SECONDS = Histogram(
    "histgen_search_seconds",
    "Seconds from a search's request to its answer, whatever the outcome.",
    ["task"],
    buckets=SECONDS,
    registry=REGISTRY,
)
SEARCH_HITS = Counter(
    "histgen_search_hits_total", "Cases that searches returned.", ["task"], registry=REGISTRY
)
CASES_SHELVED = Counter(
    "histgen_cases_shelved_total",
    "Slides that were written to the case index, new ones and those whose report has changed.",
    ["worker"],
    registry=REGISTRY,
)
CASES_WITHDRAWN = Counter(
    "histgen_cases_withdrawn_total",
    "Slides that were removed from the case index because their report was withdrawn.",
    ["worker"],
    registry=REGISTRY,
)
CASE_INDEX_HOLDS = Gauge(
    "histgen_case_index_holds",
    "What the case index that is searched here holds, by kind: cases, slides, regions.",
    ["kind"],
    registry=REGISTRY,
)
CASE_INDEX_BYTES = Gauge(
    "histgen_case_index_bytes", "Size of the case index that is searched here.", registry=REGISTRY
)
CASE_INDEX_VERSION = Gauge(
    "histgen_case_index_version",
    "The version of the case index that is searched here; it rises with every rebuild and compaction.",
    registry=REGISTRY,
)
CASE_INDEX_BEHIND = Gauge(
    "histgen_case_index_behind_seconds",
    "Seconds since the case index that is searched here was known to be current; 0 in other processes.",
    registry=REGISTRY,
)


def show_search() -> None:
    """Start the series of searches at 0."""
    for task in (f"{kind}-{find}" for kind in ("slide", "region", "text") for find in ("cases", "reports")):
        SEARCH_SECONDS.labels(task)
        SEARCH_HITS.labels(task)
        for outcome in ("found", "none", "refused", "unavailable", "failed"):
            SEARCHES.labels(task, outcome)


def show_case_index(*, cases: int, slides: int, regions: int, size_bytes: int, version: int) -> None:
    """Show what the case index that is searched here holds."""
    for kind, count in (("cases", cases), ("slides", slides), ("regions", regions)):
        CASE_INDEX_HOLDS.labels(kind).set(count)
    CASE_INDEX_BYTES.set(size_bytes)
    CASE_INDEX_VERSION.set(version)

"""The metrics of `histgen verify`, which ends too soon to be scraped and writes them to a file.

docs/metrics.md lists them; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from histgen_lib.files import write_atomic

VERIFY_REGISTRY = CollectorRegistry()

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

"""What a verification of the store is told by: a file for node-exporter's textfile collector.

It runs now and then and ends, so nobody could scrape it. docs/metrics.md lists these metrics, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from histgen_lib.files import write_atomic

REGISTRY = CollectorRegistry()

FINISHED = Gauge(
    "histgen_verify_finished_timestamp_seconds",
    "When the last verification reached the end of the store, in seconds since 1970.",
    registry=REGISTRY,
)
DURATION = Gauge(
    "histgen_verify_duration_seconds", "Seconds it took, over all its starts.", registry=REGISTRY
)
OBJECTS = Gauge("histgen_verify_objects", "Objects it looked at.", registry=REGISTRY)
BYTES = Gauge("histgen_verify_bytes", "Bytes of these objects together.", registry=REGISTRY)
UNDIGESTED = Gauge(
    "histgen_verify_undigested_objects",
    "Objects of which an earlier version did not write down what they hold.",
    registry=REGISTRY,
)
DAMAGED = Gauge(
    "histgen_verify_damaged_objects",
    "Objects that were damaged or missing, by what they are.",
    ["kind"],
    registry=REGISTRY,
)

ALL: tuple[Gauge, ...] = (FINISHED, DURATION, OBJECTS, BYTES, UNDIGESTED, DAMAGED)


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
    """Write them to a file, all or nothing; every kind is told of, at 0 too. Raises OSError."""
    for metric, value in (
        (FINISHED, finished_at),
        (DURATION, seconds),
        (OBJECTS, objects),
        (BYTES, size_bytes),
        (UNDIGESTED, undigested),
    ):
        metric.set(value)
    for kind in kinds:
        DAMAGED.labels(kind).set(damaged.get(kind, 0))
    write_atomic(path, generate_latest(REGISTRY))

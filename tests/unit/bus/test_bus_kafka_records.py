"""What a record from Kafka is read as that kafka-python's own producer would not send."""

from __future__ import annotations

from datetime import UTC, datetime

from kafka.consumer.fetcher import ConsumerRecord

from histgen_lib.bus._kafka_damage import read
from histgen_lib.events import Event, SlideScanned

DATA = SlideScanned("S1", "file:///s.svs", "c" * 64, 10)
EVENT = Event.first(DATA, source="/test", now=datetime(2026, 1, 1, tzinfo=UTC), identity="x")


def record(*more: tuple[str, bytes | None]) -> ConsumerRecord:
    headers = [(name, value.encode()) for name, value in EVENT.headers().items()]
    return ConsumerRecord("t", 3, 1, 7, 0, 0, None, EVENT.body(), [*headers, *more], None, 0, 0, 0)


def test_a_header_without_a_value_counts_as_absent():
    assert read(record(("lab", None), ("ce_id", None))).event == EVENT


def test_a_header_that_occurs_twice_with_the_same_value_is_accepted():
    assert read(record(("ce_id", EVENT.id.encode()))).event == EVENT


def test_a_header_that_occurs_twice_with_different_values_is_refused():
    delivery = read(record(("ce_id", b"another")))
    assert delivery.event is None
    assert delivery.position == "t/3/7"

"""Publisher to Apache Kafka by kafka-python."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import kafka
from kafka import errors as kafka_errors

from histgen_lib.bus import BusSettings
from histgen_lib.bus._kafka_client import ANSWER_S, connect, ensure_topic, talking
from histgen_lib.bus._records import sized
from histgen_lib.events import Event


class KafkaPublisher:
    """A `Publisher` to Kafka: acknowledged by all in-sync replicas, idempotent within an attempt."""

    def __init__(self, settings: BusSettings, servers: list[str]) -> None:
        self._settings, self._servers = settings, servers
        self._lock = threading.Lock()
        self._producer: Any = None
        self._topics: set[str] = set()

    def publish(self, topic: str, key: str, event: Event) -> None:
        """See `Publisher.publish`."""
        headers = [(name, value.encode()) for name, value in event.headers().items()]
        self._send(topic, key, headers, event.body())

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """See `Publisher.publish_raw`."""
        self._send(topic, key, [], body)

    def close(self) -> None:
        """See `Publisher.close`."""
        self._drop(self._producer)

    def _send(self, topic: str, key: str, headers: list[tuple[str, bytes]], body: bytes) -> None:
        body = sized(body)
        producer = self._ready(topic)
        try:
            with talking():
                sent = producer.send(topic, value=body, key=key.encode(), headers=headers)
                sent.get(timeout=ANSWER_S + 1)
        except BaseException:
            self._drop(producer)  # nothing of it may arrive later, behind what is published next
            raise

    def _ready(self, topic: str) -> Any:
        with self._lock:
            if topic not in self._topics:
                ensure_topic(self._settings, self._servers, topic)
                self._topics.add(topic)
            if self._producer is None:
                self._producer = connect(
                    kafka.KafkaProducer,
                    self._settings,
                    self._servers,
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_block_ms=int(ANSWER_S * 1000),
                    delivery_timeout_ms=int(ANSWER_S * 1000),
                    request_timeout_ms=int(ANSWER_S * 1000) - 1,
                )
            return self._producer

    def _drop(self, producer: Any) -> None:
        with self._lock:
            if producer is self._producer:
                self._producer = None
                self._topics.clear()
        if producer is not None:
            with contextlib.suppress(kafka_errors.KafkaError):
                producer.close(timeout=1)

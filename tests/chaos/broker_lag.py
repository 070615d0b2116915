"""What a consumer group has not committed, asked of the broker itself and not of our adapters."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from histgen_lib.bus import BusSettings

_UNFINISHED = """
SELECT COUNT(*) FROM record r LEFT JOIN claim c ON c.grp = ? AND c.topic = r.topic AND c.part = r.part
WHERE r.topic = ? AND r.position >= COALESCE(c.next, 0)
"""


def lag(bus: BusSettings, topic: str, group: str) -> int:
    """Count the records of all partitions of a topic that a group has not committed; -1 if nobody can say."""
    if bus.url.startswith("embedded:"):
        with closing(sqlite3.connect(bus.url.removeprefix("embedded:"))) as connection:
            return int(connection.execute(_UNFINISHED, (group, topic)).fetchone()[0])
    try:
        return _kafka_lag(bus.url.removeprefix("kafka://"), topic, group)
    except KafkaError:
        return -1


def _kafka_lag(servers: str, topic: str, group: str) -> int:
    consumer = KafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    with closing(consumer):
        parts = [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic) or ()]
        ends = consumer.end_offsets(parts)
        return sum(ends[part] - (consumer.committed(part) or 0) for part in parts)

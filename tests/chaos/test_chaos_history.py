"""The history checker finds nothing wrong with a sound run, and finds each planted fault."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from chaos_slides import write_bad
from harness import scanned
from history import ANNOUNCED, FINISHED, violations
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BAG_READY, SLIDE_SCANNED, Event


@pytest.mark.parametrize("place", ["embedded", "kafka"], indirect=True)
def test_each_broken_promise_is_found(new_stream, place, slides, tmp_path):
    stream = new_stream(place)
    (bad,) = write_bad(tmp_path / "bad", 1)
    events = [scanned(path) for path in (*slides[:3], bad)]
    stream.start("tiler", "reporter")
    with stream.watch.watching():
        stream.publish(events)
        stream.settle(len(events), timeout_s=120)
    stream.stop()
    stream.watch.look()
    assert stream.watch.found == []
    sound = stream.history()
    assert {line["event"] for line in sound.log_lines} >= {FINISHED}
    assert violations(sound, events) == []

    never = scanned(slides[4])
    assert found(sound, "lost", acknowledged=[never])
    log_lines = [{"event": ANNOUNCED, "event_id": never.name}]
    assert found(replace(sound, log_lines=log_lines), "untrue: the gateway")
    assert found(
        replace(sound, records=dict(sound.records) | {BAG_READY: []}), "0 outcomes", "untrue: a worker"
    )

    bag = sound.events(BAG_READY)[0]
    letter = DeadLetter.of_event(bag, InvalidInputError("x", "Planted."), attempts=1, worker="reporter")
    stream.store.put(letter.key, letter.to_bytes())
    assert found(stream.history(), "2 outcomes: bag.ready", "untold")
    stream.store.delete(letter.key)

    drafted = sound.events("report.drafted")[0].data.draft_key
    kept = stream.store.get(drafted)
    stream.store.delete(drafted)
    assert found(stream.history(), f"not there: {drafted}")
    stream.store.put(drafted, kept)

    (given_up,) = stream.keys("dead-letter/")
    kept = stream.store.get(given_up)
    stream.store.delete(given_up)
    assert found(stream.history(), "0 outcomes: slide.scanned", "passed: histgen-tiler")
    stream.watch.look()
    assert found_by_watch(stream.watch.found, json.loads(kept)["event"]["headers"]["ce_id"], sound)
    stream.store.put(given_up, kept)
    assert violations(stream.history(), events) == []

    stream.publish([never])
    commit_all(place.bus, SLIDE_SCANNED, "histgen-tiler")
    assert found(stream.history(), "0 outcomes: slide.scanned", "passed: histgen-tiler")

    with closing(open_publisher(place.bus)) as publisher:
        planted = replace(bag, id="of-nothing")
        publisher.publish(planted.type, planted.key, planted)
    assert found(stream.history(), "from nothing: bag.ready of-nothing")


def test_reordered_events_of_a_slide_are_found(new_stream, slides):
    stream = new_stream()
    first = scanned(slides[0])
    second = scanned(slides[0], mpp=0.5)
    second = replace(second, id=Event.first(second.data, source="/x", now=second.time, identity="again").id)
    stream.start("tiler", "reporter")
    stream.publish([first, second])
    stream.until(lambda: stream.ended() >= 2 and stream.idle(), 120, "both ends")
    stream.stop()
    sound = stream.history()
    assert violations(sound, [first, second]) == []
    turned = list(reversed(sound.records[BAG_READY]))
    assert found(replace(sound, records=dict(sound.records) | {BAG_READY: turned}), "out of order: bag.ready")


def found(history, *starts: str, acknowledged=()) -> bool:
    broken = violations(history, acknowledged)
    return all(any(promise.startswith(start) for promise in broken) for start in starts)


def found_by_watch(broken: list[str], event_id: str, sound) -> bool:
    (at,) = [str(record) for record in sound.records[SLIDE_SCANNED] if record.event.id == event_id]
    return broken == [f"passed: histgen-tiler committed past {at}, which is not finished"]


def commit_all(bus: BusSettings, topic: str, group: str) -> None:
    """Commit a topic to its end behind the workers' backs."""
    if bus.url.startswith("embedded:"):
        with closing(sqlite3.connect(bus.url.removeprefix("embedded:"))) as connection, connection:
            connection.execute(
                "UPDATE claim SET next = (SELECT COALESCE(MAX(position) + 1, 0) FROM record r"
                " WHERE r.topic = claim.topic AND r.part = claim.part) WHERE topic = ? AND grp = ?",
                (topic, group),
            )
        return
    consumer = KafkaConsumer(
        bootstrap_servers=bus.url.removeprefix("kafka://"), group_id=group, enable_auto_commit=False
    )
    with closing(consumer):
        ends = consumer.end_offsets(
            [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic)]
        )
        consumer.commit({part: OffsetAndMetadata(end, "", -1) for part, end in ends.items()})

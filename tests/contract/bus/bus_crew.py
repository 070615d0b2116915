"""Processes that publish and consume, to be killed at any moment; each keeps a journal of what it did.

Run as `python bus_crew.py publish|consume BUS TOPIC JOURNAL NAME`. Each line of a journal is appended in
one write, so that a killed process leaves complete lines.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import sys
import time
from pathlib import Path

from bus_members import number_of, scanned

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.errors import TransientError

SESSION_S = 2.0


class Journal:
    """Appends lines to a file that all processes share."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, *words: object) -> None:
        """Append one line: the time, then `words`."""
        os.write(self._file, (" ".join(map(str, (time.monotonic(), *words))) + "\n").encode())


def lines(path: Path) -> list[list[str]]:
    """Read the lines of a journal in order of time."""
    found = [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(found, key=lambda words: float(words[0]))


def publish(settings: BusSettings, topic: str, journal: Path, name: str) -> None:
    """Publish numbers under keys of this name, continuing where a killed predecessor stopped."""
    publisher, mine = open_publisher(settings), Journal(str(journal))
    number = sum(words[1] == "published" and words[2][0] == name for words in lines(journal))
    while True:
        with contextlib.suppress(TransientError):
            slide = f"{name}{number % 5}"
            publisher.publish(topic, slide, scanned(slide, number))
            mine.write("published", slide, number)
            number += 1
        time.sleep(random.uniform(0, 0.01))


def committed(settings: BusSettings, position: str) -> int:
    """Return the offset up to which the group has committed a record's partition, from the broker's file."""
    topic, part, _ = position.split("/")
    file = f"file:{settings.url.removeprefix('embedded:')}?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True, timeout=60)) as broker:
        sql = "SELECT next FROM claim WHERE grp = 'crew' AND topic = ? AND part = ?"
        return int(broker.execute(sql, (topic, part)).fetchone()[0])


def consume(settings: BusSettings, topic: str, journal: Path, name: str) -> None:
    """Take records, hold each for a moment, and finish it or, now and then, release it or set it aside."""
    subscription, mine = open_subscription(settings, topic, "crew"), Journal(str(journal))
    while True:
        with contextlib.suppress(TransientError):
            delivery = subscription.next(0.2)
            if delivery is None:
                continue
            record = (delivery.position, *number_of(delivery))
            mine.write("took", *record, name)
            time.sleep(random.uniform(0, 0.01))
            subscription.keep()
            chance = random.random()
            if chance < 0.1:
                subscription.release(delivery)
            elif chance < 0.2 and subscription.defer(delivery, random.uniform(0, 0.1)):
                continue
            else:
                mine.write("ending", *record)
                if subscription.done(delivery):
                    mine.write("done", *record, name, committed(settings, delivery.position))


if __name__ == "__main__":
    job, url, topic_, journal_, name_ = sys.argv[1:]
    {"publish": publish, "consume": consume}[job](
        BusSettings(url, session_s=SESSION_S), topic_, Path(journal_), name_
    )

"""Processes killed at any moment: acknowledged records arrive in order, and finished ones do not repeat.

What was finished behind a record that was set aside is not committed, and may come again to the partition's
next owner, also after that has finished the record.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import bus_crew
from bus_members import number_of
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.stack.children import dying_with_parent

PUBLISHERS, CONSUMERS = ["p", "q"], ["a", "b", "c"]
KILLS = 20


class Crew:
    """Publishing and consuming processes by name."""

    def __init__(self, url: str, journal: Path) -> None:
        self._url, self._journal = url, journal
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        job = "publish" if name in PUBLISHERS else "consume"
        arguments = [job, self._url, "t", str(self._journal), name]
        command = [sys.executable, "-W", "ignore", bus_crew.__file__, *arguments]
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # for the tests' helpers
        self._running[name] = subprocess.Popen(dying_with_parent(command), env=paths)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


def drain(settings: BusSettings, journal: bus_crew.Journal) -> None:
    """Finish all remaining records, as the last member of the group."""
    subscription = open_subscription(settings, "t", "crew")
    alone_at = time.monotonic() + 2 * settings.session_s

    def all_done() -> bool:
        delivery = subscription.next(0.1)
        if delivery is not None:
            record = (delivery.position, *number_of(delivery))
            journal.write("took", *record, "drain")
            journal.write("ending", *record)
            assert subscription.done(delivery)
        return delivery is None and time.monotonic() > alone_at and subscription.lag() == 0

    until(all_done, 60, "nothing unfinished")
    subscription.close()


def test_nothing_is_lost_and_nothing_finished_comes_again(tmp_path: Path) -> None:
    settings = BusSettings(f"embedded:{tmp_path / 'bus.db'}", session_s=bus_crew.SESSION_S)
    journal, chance = tmp_path / "journal", random.Random(4)
    crew = Crew(settings.url, journal)
    try:
        for name in PUBLISHERS + CONSUMERS:
            crew.start(name)
        for _ in range(KILLS):
            before = len(bus_crew.lines(journal))
            more = before + chance.randrange(5, 30)
            until(lambda more=more: len(bus_crew.lines(journal)) > more, 60, "some work")
            name = chance.choice(PUBLISHERS + CONSUMERS)
            crew.kill(name)
            crew.start(name)
    finally:
        crew.kill_all()
    drain(settings, bus_crew.Journal(str(journal)))
    check(bus_crew.lines(journal))


def check(lines: list[list[str]]) -> None:
    """Check that acknowledged records were delivered in order, and committed ones not again.

    Finished records are committed as soon as nothing before them is open.
    """
    published = {tuple(words[2:]) for words in lines if words[1] == "published"}
    taken: dict[str, set[int]] = defaultdict(set)
    ended: dict[str, set[int]] = defaultdict(set)
    taker: dict[str, str] = {}
    done: set[str] = set()
    committed: dict[str, int] = defaultdict(int)
    for _, what, *words in lines:
        if what == "done":
            position, _, _, name, next_ = words
            part, offset = place(position)
            committed[part] = max(committed[part], int(next_))
            if taker[position] == name:  # else it was taken again before this line was written
                done.add(position)
                behind = any(f"{part}/{before}" not in done for before in range(offset))
                assert behind or committed[part] > offset, f"{position} was not committed"
        elif what == "ending":
            ended[words[1]].add(int(words[2]))
        elif what == "took":
            position, slide, number = words[0], words[1], int(words[2])
            part, offset = place(position)
            assert offset >= committed[part], f"{position} was committed before"
            taker[position] = words[3]
            done.discard(position)
            assert number in taken[slide] or number > max(taken[slide], default=-1), "out of order"
            taken[slide].add(number)
            early = {one for one in taken[slide] - ended[slide] if one < number}
            assert not early, f"{slide} {number} came before {early} ended"
    assert published <= {(slide, str(number)) for slide, numbers in ended.items() for number in numbers}
    assert len(published) > 100


def place(position: str) -> tuple[str, int]:
    """Return a record's partition and its offset there."""
    part, _, offset = position.rpartition("/")
    return part, int(offset)

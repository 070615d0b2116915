"""Whatever is killed, and when: what was acknowledged arrives, and what was finished does not come again.

But for what was finished behind a record that was set aside: whoever has the partition next may get it again.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import bus_crew
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.stack.children import dying_with_parent

PUBLISHERS, CONSUMERS = ["p", "q"], ["a", "b", "c"]
KILLS = 20


class Crew:
    """The processes; each killed one is followed by another of its name."""

    def __init__(self, url: str, journal: Path) -> None:
        self._url, self._journal = url, journal
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        job = "publish" if name in PUBLISHERS else "consume"
        arguments = [job, self._url, "t", str(self._journal), name]
        command = [sys.executable, "-W", "ignore", bus_crew.__file__, *arguments]
        self._running[name] = subprocess.Popen(dying_with_parent(command))

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


def drain(settings: BusSettings, journal: bus_crew.Journal) -> None:
    """Finish what is left, as the last member of the group."""
    subscription = open_subscription(settings, "t", "crew")
    alone_at = time.monotonic() + 2 * settings.session_s

    def all_done() -> bool:
        delivery = subscription.next(0.1)
        if delivery is not None:
            journal.write("took", delivery.position, delivery.raw.decode())
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
    """Compare what was acknowledged, delivered and finished."""
    published = {tuple(words[2:]) for words in lines if words[1] == "published"}
    taken: dict[str, tuple[str, str]] = {}
    done: set[str] = set()
    for _, what, *words in lines:
        if what == "took":
            assert words[0] not in done or open_before(words[0], done), f"{words[0]} was finished before"
            taken[words[0]] = (words[1], words[2])
        elif what == "done":
            done.add(words[0])
    assert published <= set(taken.values())
    assert len(published) > 100
    for key in {(name, int(number) % 5) for name, number in taken.values()}:
        first = [int(n) for _, (name, n) in in_log_order(taken) if (name, int(n) % 5) == key]
        assert first == sorted(first), f"{key} came out of order"


def in_log_order(taken: dict[str, tuple[str, str]]) -> list[tuple[str, tuple[str, str]]]:
    """Sort by partition and offset."""
    return sorted(taken.items(), key=lambda item: tuple(map(int, item[0].split("/")[1:])))


def open_before(position: str, done: set[str]) -> bool:
    """Say whether a record before this one in its partition is unfinished: it was set aside."""
    topic, part, offset = position.split("/")
    return not all(f"{topic}/{part}/{before}" in done for before in range(int(offset)))

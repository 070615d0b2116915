"""The embedded broker's file: what is durable, what happens when it cannot be had, and what a reboot does."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from histgen_lib.bus import BusSettings, Delivery, Subscription, _embedded_log
from histgen_lib.bus._embedded import EmbeddedPublisher, Member, embedded_subscription
from histgen_lib.bus._leases import LeasedSubscription
from histgen_lib.errors import FatalError, TransientError


class Clock:
    """A monotonic clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder that is made" / "bus.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(path: Path) -> Iterator[EmbeddedPublisher]:
    publisher = EmbeddedPublisher(BusSettings("embedded:"), path)
    yield publisher
    publisher.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_embedded_log, "_BUSY_S", 0.05)


def member(path: Path, clock: Clock, session_s: float = 10) -> LeasedSubscription:
    return embedded_subscription(BusSettings("embedded:", session_s=session_s), path, "t", "g", clock=clock)


def take(subscription: Subscription) -> Delivery:
    delivery = subscription.next(0)
    assert delivery is not None
    return delivery


def test_a_lease_lasts_as_long_as_its_session(path: Path, clock: Clock, publisher: EmbeddedPublisher) -> None:
    publisher.publish_raw("t", "k", b"x")
    first, second = member(path, clock), member(path, clock)
    taken = take(first)
    clock.now += 9.9
    assert second.next(0) is None
    clock.now += 0.2
    assert take(second).position == taken.position


def test_a_reboot_ends_all_leases(path: Path, clock: Clock, publisher: EmbeddedPublisher) -> None:
    """The monotonic clock starts again at nothing, so leases of old seem to last for ages."""
    publisher.publish_raw("t", "k", b"x")
    clock.now = 500_000
    taken = take(member(path, clock))
    clock.now = 60
    assert take(member(path, clock)).position == taken.position


def test_a_member_that_slept_and_woke_first_goes_on(
    path: Path, clock: Clock, publisher: EmbeddedPublisher
) -> None:
    """Its lease ran out, but nobody has taken anything: what it finished is finished."""
    publisher.publish_raw("t", "k", b"x")
    sleeper, other = member(path, clock), member(path, clock)
    taken = take(sleeper)
    clock.now += 100
    assert sleeper.keep()
    assert other.next(0) is None
    assert sleeper.done(taken)


def test_finished_work_counts_although_the_lease_ran_out_if_nobody_else_has_it(
    path: Path, clock: Clock, publisher: EmbeddedPublisher
) -> None:
    publisher.publish_raw("t", "k", b"x")
    sleeper = member(path, clock)
    taken = take(sleeper)
    clock.now += 100
    assert sleeper.done(taken)
    assert member(path, clock).next(0) is None


def test_the_first_partition_count_of_a_topic_stays(path: Path) -> None:
    for partitions in (3, 50):
        publisher = EmbeddedPublisher(BusSettings("embedded:", partitions=partitions), path)
        for number in range(40):
            publisher.publish_raw("t", f"k{number}", b"x")
        publisher.close()
    with sqlite3.connect(path) as connection:
        assert {part for (part,) in connection.execute("SELECT DISTINCT part FROM record")} == {0, 1, 2}


def test_the_oldest_record_comes_first(path: Path, clock: Clock, publisher: EmbeddedPublisher) -> None:
    for number in range(20):
        publisher.publish_raw("t", f"k{number}", str(number).encode())
    subscription, taken = member(path, clock), []
    for _ in range(20):
        delivery = take(subscription)
        taken.append(int(delivery.raw))
        assert subscription.done(delivery)
    assert taken == list(range(20))


def test_a_commit_is_flushed_to_disk_and_taking_a_record_is_not(
    path: Path, clock: Clock, publisher: EmbeddedPublisher
) -> None:
    publisher.publish_raw("t", "k", b"x")
    subscription, flushing = member(path, clock), []
    assert isinstance(subscription.claims, Member)
    with subscription.claims.log.read() as connection:
        for step in (lambda: take(subscription), lambda: subscription.done(subscription._in_flight)):
            step()
            flushing.append(connection.execute("PRAGMA synchronous").fetchone()[0])
    assert flushing == [1, 2]  # NORMAL, FULL


def test_an_acknowledged_record_is_flushed_to_disk(publisher: EmbeddedPublisher) -> None:
    publisher.publish_raw("t", "k", b"x")
    with publisher._log.read() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.usefixtures("impatient")
def test_a_locked_file_is_an_outage_that_passes(
    path: Path, publisher: EmbeddedPublisher, clock: Clock
) -> None:
    publisher.publish_raw("t", "k", b"1")
    subscription = member(path, clock)
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for call in (lambda: publisher.publish_raw("t", "k", b"2"), lambda: subscription.next(0)):
        with pytest.raises(TransientError) as caught:
            call()
        assert caught.value.code == "bus-unavailable"
    lock.execute("ROLLBACK")
    assert take(subscription).raw == b"1"


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_is_an_outage_that_passes(publisher: EmbeddedPublisher) -> None:
    publisher.publish_raw("t", "k", b"x")
    with publisher._log.read() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(TransientError):
        publisher.publish_raw("t", "k", bytes(100_000))
    publisher.publish_raw("t", "k", bytes(100_000))  # by a new connection, which has room


def test_a_file_that_was_removed_is_created_again(path: Path, clock: Clock) -> None:
    subscription = member(path, clock)
    assert subscription.next(0) is None
    subscription.close()
    shutil.rmtree(path.parent)
    assert subscription.next(0) is None
    subscription.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 500, None])
def test_a_file_of_another_kind_or_version_is_reported(path: Path, damage: bytes | None) -> None:
    path.parent.mkdir(parents=True)
    if damage is None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
    else:
        path.write_bytes(damage)
    with pytest.raises(FatalError) as caught:
        EmbeddedPublisher(BusSettings("embedded:"), path).publish_raw("t", "k", b"x")
    assert caught.value.code == "bus-damaged"


def test_an_impossible_place_for_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FatalError) as caught:
        EmbeddedPublisher(BusSettings("embedded:"), tmp_path / "file" / "bus.db").publish_raw("t", "k", b"x")
    assert caught.value.code == "bus-refused"


def test_a_member_at_rest_polls_rarely_and_one_at_work_often(
    path: Path, publisher: EmbeddedPublisher
) -> None:
    """A pause of half a second at most: what comes at rest is taken within about a second."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    subscription = embedded_subscription(BusSettings("embedded:"), path, "t", "g", sleep=pause)
    subscription._stirred_at -= 3600
    assert subscription.next(1.0) is None
    assert 0 < len(pauses) <= 4
    assert max(pauses) <= 0.5

    publisher.publish_raw("t", "k", b"x")
    assert subscription.done(take(subscription))
    pauses.clear()
    assert subscription.next(0.05) is None
    assert max(pauses) < 0.02


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("{", b"{}"),
        ("[1]", b"{}"),
        ("null", b"{}"),
        (b"\xff\xfe", b"{}"),
        ("[" * 20_000, b"{}"),
        (7, b"{}"),
    ],
    ids=str,
)
def test_a_damaged_row_is_delivered_with_its_place_and_the_next_one_follows(
    path: Path, clock: Clock, publisher: EmbeddedPublisher, headers: object, body: object
) -> None:
    for number in range(2):
        publisher.publish_raw("t", "k", b"%d" % number)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE record SET headers = ?, body = ? WHERE position = 0", (headers, body))
    subscription = member(path, clock)
    damaged = take(subscription)
    assert damaged.unreadable is not None
    assert (damaged.offset, damaged.unreadable.code) == (0, "record-damaged")
    assert subscription.done(damaged)
    assert take(subscription).raw == b"1"
    subscription.close()


@pytest.mark.parametrize("body", ["text", 7, 1.5])
def test_a_body_of_another_type_is_delivered_as_bytes(
    path: Path, clock: Clock, publisher: EmbeddedPublisher, body: object
) -> None:
    publisher.publish_raw("t", "k", b"x")
    with sqlite3.connect(path) as file:
        file.execute("UPDATE record SET body = ?", (body,))
    subscription = member(path, clock)
    assert take(subscription).raw == str(body).encode()
    subscription.close()

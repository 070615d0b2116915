"""Whatever is set aside, lost and regained: nothing unfinished is passed over, and keys stay in order."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from histgen_lib.bus import Delivery, _aside
from histgen_lib.bus._aside import Aside
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MOST, HELD = 4, 2


def record(partition: int, offset: int, key: str = "", size: int = 1) -> Delivery:
    """Make a record; one without a key is no event of ours."""
    if not key:
        unreadable = InvalidInputError("event-malformed", "It is none.", hint="Send one.")
        return Delivery("t", partition, offset, bytes(size), unreadable=unreadable)
    data = SlideScanned(key, f"file:///scans/{key}.svs", "ab" * 32, 1)
    event = Event.first(data, source="histgen/test", now=NOW, identity=f"{key}|{offset}")
    return Delivery("t", partition, offset, bytes(size), event=event)


def take(aside: Aside, delivery: Delivery) -> Delivery:
    """Have a record read and delivered."""
    aside.take(delivery)
    found = aside.again(0)
    assert found is not None
    aside.lend(found)
    return found


def test_after_a_record_that_was_due_a_new_one_has_its_turn() -> None:
    aside = Aside()
    for offset, key in enumerate("ab"):
        aside.defer(take(aside, record(0, offset, key)), due=1)
    first = aside.again(1, in_turn=True)
    assert first is not None
    assert first.offset == 0
    aside.lend(first)
    aside.finish(first)
    assert aside.again(1, in_turn=True) is None
    assert aside.again(1) is not None
    aside.finish(take(aside, record(0, 2, "c")))
    second = aside.again(1, in_turn=True)
    assert second is not None
    assert second.offset == 1


def test_the_limit_on_bytes_holds_as_well_as_that_on_records() -> None:
    aside = Aside()
    large = _aside.BYTES_MOST // 2
    for offset, key in enumerate("ab"):
        aside.defer(take(aside, record(0, offset, key, large)), due=1)
    aside.take(record(0, 2, "a"))
    assert aside.stopped == {0}
    take(aside, record(1, 0, "c"))
    assert not aside.has_room()


def test_a_partition_stopped_for_its_key_does_not_go_on_because_another_one_has_room() -> None:
    """It would be read in vain each time that another record is finished."""
    aside = Aside()
    aside.defer(take(aside, record(0, 0, "a")), due=1)
    for offset in range(1, _aside.HELD_MOST + 2):
        aside.take(record(0, offset, "a"))
    assert aside.stopped == {0}
    aside.finish(take(aside, record(1, 0, "b")))
    assert aside.stopped == {0}


class Member(RuleBasedStateMachine):
    """A member on a broker of two partitions, which the model keeps as lists of keys."""

    def __init__(self) -> None:
        super().__init__()
        self._few = patch.multiple(_aside, ASIDE_MOST=MOST, HELD_MOST=HELD)
        self._few.start()
        self.aside, self.now = Aside(), 0.0
        self.log: list[list[str]] = [[], []]
        self.committed, self.position = [0, 0], [0, 0]
        self.in_flight: Delivery | None = None
        self.due: dict[tuple[int, int], float] = {}
        self.finished: set[tuple[int, int]] = set()
        self.finished_here: set[tuple[int, int]] = set()

    def teardown(self) -> None:
        """Work until there is nothing left: all of it must have come."""
        try:
            self.finish_everything()
        finally:
            self._few.stop()

    @rule(part=st.sampled_from([0, 1]), keys=st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=4))
    def publish(self, part: int, keys: list[str]) -> None:
        self.log[part] += keys

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.in_flight is None)
    @rule(part=st.sampled_from([0, 1]))
    def read(self, part: int) -> None:
        """Read on, as the adapters do: once nothing that was read before can be delivered."""
        offset = self.position[part]
        if part in self.aside.stopped or offset == len(self.log[part]):
            return
        if self.aside.again(self.now, in_turn=True) is not None:
            self.deliver()
            return
        self.aside.take(record(part, offset, self.log[part][offset]))
        if part not in self.aside.stopped:
            self.position[part] += 1
            self.due.pop((part, offset), None)
        self.deliver()

    @precondition(lambda self: self.in_flight is None)
    @rule(in_turn=st.booleans())
    def deliver(self, *, in_turn: bool = True) -> None:
        found = self.aside.again(self.now, in_turn=in_turn)
        if found is None:
            return
        self.aside.lend(found)
        place = found.partition, found.offset
        assert place not in self.finished_here
        assert self.due.get(place, 0) <= self.now
        key = self.log[found.partition][found.offset]
        before = [offset for offset in range(found.offset) if self.log[found.partition][offset] == key]
        assert not key or all((found.partition, offset) in self.finished for offset in before)
        self.in_flight = found

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def done(self) -> None:
        delivery = self.in_flight
        assert delivery is not None
        place = delivery.partition, delivery.offset
        self.finished.add(place)
        self.finished_here.add(place)
        self.committed[delivery.partition] = self.aside.floor_after(delivery)
        assert self.aside.reached(delivery) == self.position[delivery.partition]
        self.aside.finish(delivery)
        self.in_flight = None

    @precondition(lambda self: self.in_flight is not None)
    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def defer(self, seconds: float) -> None:
        assert self.in_flight is not None
        if self.aside.has_room():
            self.due[self.in_flight.partition, self.in_flight.offset] = self.now + seconds
            self.aside.defer(self.in_flight, self.now + seconds)
            self.in_flight = None

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def release(self) -> None:
        assert self.in_flight is not None
        self.aside.release(self.in_flight)
        self.due.pop((self.in_flight.partition, self.in_flight.offset), None)
        assert self.aside.again(self.now, in_turn=True) is not None
        self.in_flight = None

    @precondition(lambda self: self.in_flight is None)
    @rule(part=st.sampled_from([0, 1]))
    def lose_and_regain(self, part: int) -> None:
        self.aside.forget([part])
        self.position[part] = self.committed[part]
        self.finished_here = {place for place in self.finished_here if place[0] != part}
        self.due = {place: due for place, due in self.due.items() if place[0] != part}

    @invariant()
    def nothing_unfinished_is_committed(self) -> None:
        for part, committed in enumerate(self.committed):
            assert all((part, offset) in self.finished for offset in range(committed))

    @invariant()
    def little_is_remembered(self) -> None:
        open_ = sum(len(part.open) for part in self.aside._parts.values())
        assert open_ <= MOST + 1  # one in flight, with no room to be set aside

    @invariant()
    def the_group_is_at_the_lowest_unfinished_one(self) -> None:
        for part in (0, 1):
            assert self.aside.floor(part) in (None, self.committed[part])

    def finish_everything(self) -> None:
        while self.committed != [len(keys) for keys in self.log]:
            before = len(self.finished_here)
            self.now += 10
            for part in (0, 1):
                if self.in_flight is None:
                    self.read(part)
                if self.in_flight is None:
                    self.deliver(in_turn=False)
                if self.in_flight is not None:
                    self.done()
            assert len(self.finished_here) > before
        assert self.aside.again(self.now) is None


TestMember = Member.TestCase
TestMember.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

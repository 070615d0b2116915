"""The ways around an offset that a broker does not find: before it, else to the next that is found."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.bus._kafka_holes import _Way, _ways


def walk(offset: int, end: int, found: Callable[[int], bool]) -> list[_Way]:
    """Go the ways until one is taken; those that only look are marked as probes."""
    ways, gone = _ways(offset, end), list[_Way]()
    try:
        way = next(ways)
        while True:
            gone.append(way)
            if found(way.start) and not way.probe:
                return gone
            way = ways.send(found(way.start))
    except StopIteration:
        return gone


@given(offset=st.integers(0, 10_000), size=st.integers(1, 3000), behind=st.integers(1, 500))
def test_the_first_offset_that_is_found_ends_the_search_and_nothing_more_is_given_up(offset, size, behind):
    first = offset + size
    gone = walk(offset, first + behind + 2 * size, lambda start: start >= first)

    assert gone[-1] == _Way(first, first, lost=offset)
    assert len(gone) < 45


@given(offset=st.integers(1, 10_000), before=st.integers(1, 4096))
def test_a_fetch_that_begins_before_the_hole_gives_up_nothing(offset, before):
    gone = walk(offset, offset + 10, lambda start: start <= max(0, offset - before))

    assert (gone[-1].floor, gone[-1].lost) == (offset, None)


def test_nothing_is_given_up_if_nothing_behind_it_is_found():
    assert [way for way in walk(7, 100, lambda _: False) if way.lost is not None] == []


def test_an_offset_that_is_found_again_in_the_end_is_not_given_up():
    """A broker that answered wrongly for a while."""
    looks: list[int] = []

    def found(start: int) -> bool:
        looks.append(start)
        return start > 7 or (start == 7 and looks.count(8) > 0)

    assert walk(7, 100, found)[-1] == _Way(7, 7)

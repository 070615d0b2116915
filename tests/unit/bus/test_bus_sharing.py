"""Partitions are shared out fairly, work in flight stays where it is, and little else moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.bus._sharing import Holding, share

PARTITIONS = range(12)


@st.composite
def groups(draw: st.DrawFn, *, disputed: bool = False) -> dict[str, Holding]:
    """Draw a group whose members have some partitions each, with at most one record in flight."""
    names = draw(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=14, unique=True))
    owner = draw(st.lists(st.sampled_from([*names, None]), min_size=12, max_size=12))
    members = {}
    for name in names:
        owned = {part for part in PARTITIONS if owner[part] == name}
        if disputed:
            owned |= draw(st.sets(st.sampled_from(PARTITIONS)))
        busy = draw(st.sets(st.sampled_from(sorted(owned)), max_size=1)) if owned else set()
        members[name] = Holding(frozenset(owned), frozenset(busy))
    return members


@given(groups(disputed=True))
def test_every_partition_has_one_member_and_counts_differ_by_one_at_most(
    members: dict[str, Holding],
) -> None:
    shares = share(PARTITIONS, members)
    assert sorted(part for parts in shares.values() for part in parts) == list(PARTITIONS)
    sizes = [len(parts) for parts in shares.values()]
    assert set(shares) == set(members)
    assert max(sizes) - min(sizes) <= 1


@given(groups())
def test_a_partition_with_a_record_in_flight_stays(members: dict[str, Holding]) -> None:
    shares = share(PARTITIONS, members)
    assert all(holding.busy <= shares[name] for name, holding in members.items())


@given(groups())
def test_a_fair_group_is_left_alone(members: dict[str, Holding]) -> None:
    shares = share(PARTITIONS, members)
    settled = {
        name: Holding(frozenset(parts), members[name].busy & frozenset(parts))
        for name, parts in shares.items()
    }
    assert share(PARTITIONS, settled) == shares


@given(groups())
def test_no_member_loses_more_than_its_surplus(members: dict[str, Holding]) -> None:
    shares = share(PARTITIONS, members)
    for name, holding in members.items():
        lost = len(holding.owned - shares[name])
        assert lost == max(0, len(holding.owned) - len(shares[name]))


def test_a_group_without_members_has_no_shares() -> None:
    assert share(PARTITIONS, {}) == {}

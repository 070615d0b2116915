"""Which partition a key has, and which member of a group gets which: fair, sticky, the same for everyone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Holding:
    """The partitions of a member, and those among them from which a record is in flight."""

    owned: frozenset[int] = frozenset()
    busy: frozenset[int] = frozenset()


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key on the embedded broker; Kafka has a hash of its own."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % partitions


def share(partitions: Collection[int], members: Mapping[str, Holding]) -> dict[str, set[int]]:
    """Share `partitions` out: counts differ by at most one, busy ones stay, and few others move."""
    if not members:
        return {}
    kept = _undisputed(partitions, members)
    least, spare = divmod(len(partitions), len(members))
    # The spare ones go to members that need one for a record in flight, then to those that have most already.
    order = sorted(members, key=lambda name: (len(members[name].busy) <= least, -len(kept[name]), name))
    quota = {name: least + (rank < spare) for rank, name in enumerate(order)}
    shares = {name: _first(kept[name], members[name].busy, quota[name]) for name in order}
    free = sorted(set(partitions).difference(*shares.values()))
    for name in order:
        while len(shares[name]) < quota[name]:
            shares[name].add(free.pop(0))
    return shares


def holders_of(claims: Collection[tuple[int, str | None, bool]], members: Iterable[str]) -> dict[int, str]:
    """Share partitions out; return the holder of each. `claims`: partition, holder so far, whether busy."""
    owned: dict[str | None, set[int]] = defaultdict(set)
    busy: dict[str | None, set[int]] = defaultdict(set)
    for part, holder, is_busy in claims:
        owned[holder].add(part)
        busy[holder].update({part} if is_busy else ())
    holdings = {name: Holding(frozenset(owned[name]), frozenset(busy[name])) for name in members}
    shares = share([part for part, _, _ in claims], holdings)
    return {part: name for name, parts in shares.items() for part in parts}


def _undisputed(partitions: Collection[int], members: Mapping[str, Holding]) -> dict[str, set[int]]:
    """Leave each partition that two members name (one of them is out of date) to the busy one."""
    undecided = set(partitions)
    kept: dict[str, set[int]] = {name: set() for name in members}
    for part in ("busy", "owned"):
        for name in sorted(members):
            mine = getattr(members[name], part) & undecided
            kept[name] |= mine
            undecided -= mine
    return kept


def _first(kept: set[int], busy: Collection[int], quota: int) -> set[int]:
    return set(sorted(kept, key=lambda partition: (partition not in busy, partition))[:quota])

"""How many requests a caller may send: token buckets, bounded in number."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MOST = 4096
"""Callers remembered; beyond that, the one not heard of for longest is forgotten."""


class Buckets:
    """One bucket for each caller: `burst` requests at once, then `rate` a second. `rate` 0: no limit.

    `clock`: monotonic seconds. For one thread.
    """

    def __init__(
        self, rate: float, burst: float, *, most: int = MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Take one request from a caller's bucket; return 0.0, or the seconds until the next may come."""
        if self._rate == 0:
            return 0.0
        now = self._clock()
        left, since = self._left.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._rate
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return wait_s


def peer_of(host: str) -> str:
    """Name an address for its bucket: who has one IPv6 address has the other 2^64 of its network as well."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)

"""Who stands behind a request, as far as this machine knows: for the audit log.

All who call have the one token. Of a process on this machine the kernel tells the account (proc_net_tcp(5)).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from histgen_lib.worker.audit import account

_TABLES = ("tcp", "tcp6")


def caller(host: str, port: int) -> str:
    """Name the account at the other end of a connection from this machine, else the address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if address.is_loopback and (uid := next(_owners(address, port), None)) is not None:
        return account(uid)
    return str(address)


def _owners(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Iterator[int]:
    """Yield the user ids of those who have a connection from there; nothing without /proc."""
    ends = {f"{_as_kernel(packed)}:{port:04X}" for packed in _written(address)}
    for table in _TABLES:
        try:
            with Path("/proc/net", table).open(encoding="ascii") as lines:
                yield from (int(line[7]) for line in map(str.split, lines) if line[1] in ends)
        except OSError:
            return


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[bytes]:
    """Give the ways to write an address: a socket of IPv6 may carry one of IPv4."""
    mapped = [bytes(10) + b"\xff\xff" + address.packed] if address.version == 4 else []
    return [address.packed, *mapped]


def _as_kernel(packed: bytes) -> str:
    """Write an address as /proc/net does: words of 32 bits, each in this machine's order (little-endian)."""
    return "".join(packed[at : at + 4][::-1].hex() for at in range(0, len(packed), 4)).upper()

"""Which account of this machine owns a socket, according to the kernel (proc_net_tcp(5)).

Only for loopback addresses: an address elsewhere may have the same port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

_ESTABLISHED, _LISTENS = "01", "0A"
_TABLES = {4: "tcp", 16: "tcp6"}
"""By the length of an address in bytes."""
_MAPPED = bytes(10) + b"\xff\xff"
"""The prefix of an IPv4 address in an IPv6 socket."""


def listeners(host: str, port: int) -> Iterator[int]:
    """Yield the user ids of the sockets that listen there, those at the exact address first."""
    for fields in _sockets(host, port, anywhere=True):
        if fields[3] == _LISTENS:
            yield int(fields[7])


def callers(host: str, port: int, to_port: int) -> Iterator[int]:
    """Yield the user ids of the sockets that have a connection from there to a port."""
    for fields in _sockets(host, port, anywhere=False):
        if fields[3] == _ESTABLISHED and fields[2].endswith(f":{to_port:04X}"):
            yield int(fields[7])


def _sockets(host: str, port: int, *, anywhere: bool) -> Iterator[list[str]]:
    """Yield the kernel's lines about sockets with this end; `anywhere`: also those bound to any address."""
    for address in _addresses(host, anywhere=anywhere):
        at = f"{_as_kernel(address)}:{port:04X}"
        try:
            with Path("/proc/net", _TABLES[len(address)]).open(encoding="ascii") as lines:
                yield from (fields for fields in map(str.split, lines) if fields[1] == at)
        except OSError:
            return


def _addresses(host: str, *, anywhere: bool) -> list[bytes]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if not address.is_loopback:
        return []
    exact = [address.packed] if address.version == 6 else [address.packed, _MAPPED + address.packed]
    everywhere = [bytes(len(one)) for one in exact]
    return [*exact, *(everywhere if anywhere else ())]


def _as_kernel(address: bytes) -> str:
    """Return an address as /proc/net writes it: 32-bit words, each in this machine's byte order (little)."""
    return "".join(address[at : at + 4][::-1].hex() for at in range(0, len(address), 4)).upper()

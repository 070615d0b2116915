"""Who stands behind a request, as far as this machine knows: for the audit log.

All who call have the one token. Of a process on this machine the kernel tells the account.
"""

from __future__ import annotations

import ipaddress

from histgen_lib import sockets
from histgen_lib.catalogue.audit import account


def caller(host: str, port: int, to_port: int) -> str:
    """Name the account at the other end of a connection from this machine, else the address."""
    uid = next(sockets.callers(host, port, to_port), None)
    if uid is not None:
        return account(uid)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "unknown"

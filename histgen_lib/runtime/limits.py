"""What a server of ours grants to those who connect, whoever they are: how many, how long, how much."""

from __future__ import annotations

import resource
from dataclasses import dataclass

HEAD_BYTES, MOST_HEADERS = 16 << 10, 100
"""Of one request's line and headers; a token, and what proxies add, takes a kilobyte or two."""

READ_S, LINGER_S = 30.0, 5.0
"""What a peer may take to read an answer, and to take leave of it."""

_SHARE = 4
"""Of the files that a process may have open, connections take one part in so many: slides need some, too."""
_AT_A_TIME = 32


@dataclass(frozen=True)
class Limits:
    """`connections`: in all at a time; `peer_connections`: from one address.

    A new one that is too many takes the place of the oldest that keeps us waiting; only if none does, it is
    refused.

    `head_s`: what the line and headers of a request may take, and a connection without any; `body_s`: what
    its body may. `names`: names by which the server may be called beside those of loopback.
    """

    connections: int = 256
    peer_connections: int = 128
    head_s: float = 10.0
    body_s: float = 30.0
    names: tuple[str, ...] = ()

    @property
    def affordable(self) -> int:
        """How many connections may be open at a time in a process that may have few files open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.connections if soft < 0 else max(1, min(self.connections, soft // _SHARE))

    @property
    def at_a_time(self) -> int:
        """How many connections are taken before requests are read again.

        Fewer than a peer may have: a request that came with its connection is read before others push it out.
        """
        return max(1, min(_AT_A_TIME, self.peer_connections // 2, self.affordable // 2))

    def patience_s(self, owed: str) -> float:
        """How long a peer may owe us a "head" or a "body", or that it should "read" or "close"."""
        return {"head": self.head_s, "body": self.body_s + LINGER_S, "read": READ_S, "close": LINGER_S}[owed]

"""What a service is told about its HTTP server: where it listens, whom it lets in, how it proves itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from histgen_lib.runtime.web.guard import Limits

PROBES = ("/healthz", "/readyz")
OPENABLE: Mapping[str, tuple[str, ...]] = {"probes": PROBES, "metrics": ("/metrics",)}
"""The groups of pages that may be opened to callers without a token: they name no slide."""


@dataclass(frozen=True)
class DoorSettings:
    """`open`: the groups of pages that need no token. `rate`: requests a second of one caller; 0: any number.

    `burst`: how many it may send at once.
    """

    open: frozenset[str] = field(default_factory=lambda: frozenset(OPENABLE))
    rate: float = 100.0
    burst: int = 2000


@dataclass(frozen=True)
class IssuerSettings:
    """`url`: as the tokens' "iss" has it. `audience`: what their "aud" must hold.

    `scopes_claim`: the claim with the caller's scopes, a text with blanks or a list; dots lead into objects.
    `scopes`: our scope for each of its values; if empty, the values are our scopes. `ca_file`: PEM file of
    the authorities trusted for the issuer's certificate, instead of the system's.
    """

    url: str
    audience: str
    scopes_claim: str = "scope"
    scopes: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: `certificate` with those that signed it, and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Address:
    """Where a service listens (`port` 0: any free one), whom it lets in, and where it says so.

    `token_file`: holds its own token; created if missing. `tokens_file`, `issuer`: further tokens. `door`,
    `limits`: what is open, and how much of it. `tls`: its certificate; None for plain HTTP, which outside
    this machine is warned of, unless `tls_elsewhere` says that a mesh or proxy encrypts.
    """

    host: str
    port: int
    token_file: Path
    run_dir: Path | None = None
    limits: Limits = field(default_factory=Limits)
    door: DoorSettings = field(default_factory=DoorSettings)
    tokens_file: Path | None = None
    issuer: IssuerSettings | None = None
    tls: TlsFiles | None = None
    tls_elsewhere: bool = False

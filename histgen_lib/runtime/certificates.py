"""When certificates expire, for those who have to renew them in time.

Those for Kafka are read again whenever somebody asks, so a renewed one shows at once.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from histgen_lib.telemetry import metrics

CERTFILE, CAFILE = "ssl_certfile", "ssl_cafile"
"""The files with certificates among kafka-python's settings."""
_NAMES = {CERTFILE: "kafka-client", CAFILE: "kafka-ca"}

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _SEQUENCE, _INTEGER, _VERSION = 0x17, 0x30, 0x02, 0xA0
"""Tags of DER (X.690) that a certificate (RFC 5280, section 4.1) begins with."""


def show_kafka_certificates(settings: Mapping[str, str | int | bool]) -> None:
    """Show in the metrics when the certificates expire that kafka-python's settings name.

    Of a chain counts the one that expires first; of authorities (`CAFILE`) the last, as a new one lies beside
    the old one for a while. NaN while a file cannot be read.
    """
    for setting, which in ((CERTFILE, min), (CAFILE, max)):
        if path := settings.get(setting):
            expires = partial(expiry_of, Path(str(path)), which)
            metrics.CERTIFICATE_EXPIRY.labels(_NAMES[setting]).set_function(expires)


def expiry_of(path: Path, which: Callable[[Iterable[float]], float] = min) -> float:
    """Return when the certificates in a PEM file expire, in seconds since 1970; NaN without any."""
    try:
        return which([expiry(one) for one in _PEM.findall(path.read_text("ascii", errors="replace"))])
    except (OSError, ValueError, IndexError):
        return math.nan


def expiry(pem: str) -> float:
    """Return when a certificate expires, in seconds since 1970. Raises ValueError, IndexError."""
    _, certificate, _ = _element(ssl.PEM_cert_to_DER_cert(pem))
    _, rest, _ = _element(certificate)
    for tag in (_VERSION, _INTEGER, _SEQUENCE, _SEQUENCE):  # version, serial number, algorithm, issuer
        found, _, after = _element(rest)
        rest = after if found == tag or tag != _VERSION else rest
    _, validity, _ = _element(rest)
    _, _, after = _element(validity)
    kind, text, _ = _element(after)
    year = "%y" if kind == _UTC_TIME else "%Y"
    return datetime.strptime(text.decode("ascii"), f"{year}%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element of DER, and what follows it."""
    size, at = data[1], 2
    if size & 0x80:
        at = 2 + (size & 0x7F)
        size = int.from_bytes(data[2:at], "big")
    return data[0], data[at : at + size], data[at + size :]

"""What a server proves itself with: its certificate, read again when it is replaced."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from histgen_lib.errors import FatalError
from histgen_lib.runtime.web.address import TlsFiles
from histgen_lib.runtime.web.reread import Reread
from histgen_lib.telemetry import metrics

_UTC_TIME, _SEQUENCE, _INTEGER, _VERSION = 0x17, 0x30, 0x02, 0xA0
"""Tags of DER (X.690) that a certificate (RFC 5280, section 4.1) begins with."""


class Certificate:
    """What a server proves itself with. For one thread. Raises FatalError("tls-certificate")."""

    def __init__(self, files: TlsFiles) -> None:
        self._context = Reread(lambda: _context(files), files.certificate, files.key)

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection."""
        return self._context.get()


def _context(files: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        expires = expiry(files.certificate.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError, IndexError) as error:
        raise FatalError(
            "tls-certificate",
            f"The certificate {files.certificate} with the key {files.key} cannot be used: {_reason(error)}.",
            hint="HISTGEN_TLS_CERT and HISTGEN_TLS_KEY name PEM files that belong together and that this "
            "account can read; the key has no password.",
        ) from error
    metrics.CERTIFICATE_EXPIRY.labels("http").set(expires)
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is not a certificate").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def expiry(pem: str) -> float:
    """Return when the first certificate of a PEM text expires, in seconds since 1970.

    Raises ValueError, IndexError.
    """
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = pem[pem.index(begin) : pem.index(end) + len(end)]
    _, certificate, _ = _element(ssl.PEM_cert_to_DER_cert(first))
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
